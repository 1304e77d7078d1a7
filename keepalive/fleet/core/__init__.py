"""The decisions of a fleet's limits, without any I/O: what a member does, and what the store does.

Nothing below this package awaits, reads a clock, touches a socket, logs or draws a random number.
"""
