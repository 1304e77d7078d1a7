"""A transport for `httpx2.AsyncClient` and `httpx.AsyncClient` over the connections of a manager.

async with httpx2.AsyncClient(transport=keepalive.httpx.Transport()) as client:
    response = await client.get("https://example.org/")
"""

from .transport import Transport

__all__ = ("Transport",)
