"""What a contender is set up for in each workload."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.orders import Order, Setup, loopback

KILOBYTE = b"0123456789abcdef" * 64


def setup_for(order: Order) -> Setup:
    site, name = order.site, order.workload
    plain = Setup("127.0.0.1", site.port)
    tls = replace(plain, port=site.tls_port, scheme="https")
    setups = {
        "fan-out": replace(plain, port=site.echo_port),
        "fan-out-at-once": replace(plain, port=site.echo_port, window=max(order.points)),
        "keys": Setup(loopback(0), site.hold_port, total=max(order.points) + 64),
        "watch": Setup(loopback(0), site.hold_port, total=max(order.points) + 64),
        "redis-64": replace(plain, port=site.redis_port),
        "redis-shared": replace(plain, port=site.redis_port, limit=1),
        "upload": replace(plain, port=site.sink_port),
        "limits-upload": replace(plain, port=site.sink_port),
        "cold-tls": tls,
        "cold-resumed": replace(tls, port=site.ticket_port),
        "tls-64": tls,
        "tls-download": tls,
        "json-64": replace(plain, path="json"),
        "post-64": replace(plain, content=KILOBYTE),
        "many-hosts": replace(plain, port=site.hosts_port, total=100),
        "proxy-64": replace(tls, proxy=f"http://127.0.0.1:{site.proxy_port}"),
        "names": replace(plain, port=site.dns_port),
    }
    return setups.get(name, plain)
