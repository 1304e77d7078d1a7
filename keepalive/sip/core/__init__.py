"""What decides, and touches nothing: messages, routes, flows, their times and completions. Pure.

No clock, socket, log or task is known here. Time is an argument; what is to be done outside is an effect.
"""
