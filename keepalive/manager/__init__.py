"""The connection manager: requests, connections, and the driver that carries out what the pool decides."""
