"""Which names are this machine's own."""

from __future__ import annotations

from contracts.loopback import is_loopback_name


class TestName:
    def test_an_address_of_another_machine_is_not_loopback(self) -> None:
        assert is_loopback_name("::1")
        assert not is_loopback_name("192.168.0.4")
        assert not is_loopback_name("0.0.0.0")
