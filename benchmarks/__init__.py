"""Side-by-side measurements of keepalive, its peers, and the floors nobody can go below."""
