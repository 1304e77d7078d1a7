"""Sockets: one poller for all of them, links over them, a stream over a link."""
