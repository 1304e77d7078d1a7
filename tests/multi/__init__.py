"""`keepalive.multi`: the decisions against a model, then everything over real sockets."""
