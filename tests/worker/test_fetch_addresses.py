"""Which addresses a worker may be sent to."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from worker.fetch_addresses import may_connect

PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::1")
NOT_PUBLIC = (
    *("0.0.0.0", "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.100.100.200", "100.64.0.1", "168.63.129.16", "192.0.0.192", "198.18.0.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.88.99.1", "203.0.113.7"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2001:0:4136:e378::1", "2001:20::1", "3fff::1", "5f00::1", "100::1", "fec0::1"),
    *("", "example.com", "127.1", "0x7f000001", "2130706433", "127.0.0.1:80", "1.1.1.1/32"),
)


class TestMayConnect:
    @pytest.mark.parametrize("address", PUBLIC)
    def test_to_public_addresses(self, address: str) -> None:
        assert may_connect(address)

    @pytest.mark.parametrize("address", NOT_PUBLIC)
    def test_to_no_other(self, address: str) -> None:
        assert not may_connect(address)

    def test_to_networks_that_were_named_and_no_further(self) -> None:
        allowed = (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))
        assert may_connect("10.0.0.7", allowed)
        assert may_connect("fd00::7", allowed)
        assert not may_connect("10.0.1.7", allowed)
        assert not may_connect("::ffff:10.0.0.7", allowed)
        assert not may_connect("fd00:0:0:1::7", allowed)
