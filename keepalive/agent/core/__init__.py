"""What an agent and its borrowers decide: pure, without clock, sockets or messages.

Inputs are plain calls that carry the time; what is to be done afterwards stands in `Desk.effects`.
"""
