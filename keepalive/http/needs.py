"""Says which extra is missing, before anything is imported that needs it."""

from keepalive.errors import require_extra

require_extra("httptools", "http", "keepalive.http")
