"""HTTP/2 (RFC 9113) on a shared connection, with `h2` for frames and header compression.

`frames` cuts what comes into frames and bounds what a peer may make us do for nothing; `core` is the whole
connection, `stream` one request on it, both without I/O; `session` reads, writes and wakes who waits; `lease`
is what an exchange sees of it.
"""
