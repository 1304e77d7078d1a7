"""What becomes of the peers of a client: every decision, and nothing else. Pure; see `dispatch`."""
