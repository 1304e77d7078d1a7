"""The pool's decisions, without any I/O: a state machine that the shell drives.

Nothing below this package awaits, reads a clock, touches a socket, logs or draws a random number.

Cost: every input is O(1) in waiters, keys and connections, or O(log n) where time or arrival order must
be sorted. `shutdown` and `set_limits` pay for all there is; a request whose reserved connection is lost
passes those put back into the queue before it; recalling a key's extra slot passes its attempts.

Alternatives refused. A semaphore and a queue per request: no place where the state is whole, a cancellation
at each await. Effects as callbacks: re-entrancy. Separate layers for limits and idle list, each deciding for
itself: limits, fairness and eviction are one decision. Booleans for states: they come to disagree. A scan of
all keys: O(keys).
"""
