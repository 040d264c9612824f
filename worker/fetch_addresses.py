"""Which machines a worker may be sent to by somebody else: public ones, and networks named on purpose.

Pure arithmetic over addresses (RFC 6890 and IANA's registries of special-purpose addresses). `is_global` of Python's
ipaddress alone will not do: in 3.11 it lets multicast, 6to4 and NAT64 pass. Knows nothing about names or sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_PUBLIC = (ip_network("0.0.0.0/0"), ip_network("2000::/3"))
"""Of IPv6 only this has ever been given out as global unicast; outside lie ::1, ::ffff:0:0/96 (IPv4 in IPv6),
64:ff9b::/96 (NAT64), fc00::/7, fe80::/10 and ff00::/8."""
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT, where some clouds keep their metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's platform, of public form and reached from inside
            "169.254.0.0/16",  # link-local, and most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocols
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "2001::/23",  # IETF protocols: Teredo, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: any IPv4 address in IPv6's clothes
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


def may_connect(address: str, allowed: Iterable[Network] = ()) -> bool:
    """Whether a worker may connect to this address: public, or in a network that was allowed by name."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if any(found in network for network in allowed):
        return True
    return any(found in network for network in _PUBLIC) and not any(found in network for network in _NOT_PUBLIC)
