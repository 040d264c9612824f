"""Which names and addresses are this machine's own loopback. Knows nothing about headers, ports or keys."""

from __future__ import annotations

import ipaddress


def is_loopback_name(name: str) -> bool:
    """Whether a host name or address without port is this machine's loopback: localhost, 127.0.0.0/8 or ::1."""
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
