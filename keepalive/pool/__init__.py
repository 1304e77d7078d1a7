"""The pool's decisions, without any I/O: a state machine that the shell drives.

Nothing below this package awaits, reads a clock, touches a socket, logs or draws a random number.
"""
