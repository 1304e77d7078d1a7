"""Says which extra is missing, before anything is imported that needs it."""

from keepalive.base.extras import require

require("httptools", "http", "keepalive.http")
