"""HTTP/2 (RFC 9113) on a shared connection, with `h2` for frames and header compression.

`core` decides: `frames` cuts what comes into frames and bounds what a peer may make us do for nothing,
`connection` is the whole connection, `stream` one request on it. `session` reads, writes and wakes who waits;
`lease` is what an exchange sees of it.
"""
