"""SIP: framing, routing, expiry, sockets, and the peers that others wrote."""
