"""All that decides in HTTP/2, without I/O, clock and tasks."""
