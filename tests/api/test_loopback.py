"""Which names and origins are this machine's own."""

from __future__ import annotations

import pytest

from api.loopback import is_loopback_host_header, is_same_origin


class TestHostHeader:
    @pytest.mark.parametrize(
        "value", ["localhost", "LOCALHOST:80", "127.0.0.1:8765", "127.9.8.7", "[::1]", "[::1]:9", "[::ffff:127.0.0.1]"]
    )
    def test_loopback_names_are_accepted_with_any_port(self, value: str) -> None:
        assert is_loopback_host_header(value)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example/localhost",
            "localhost:80:80",
            "localhost:evil",
            "128.0.0.1",
            "0.0.0.0",
            "[::2]",
            "[::1]x",
            "127.1",
            "2130706433",
            " localhost",
        ],
    )
    def test_everything_else_is_foreign(self, value: str) -> None:
        assert not is_loopback_host_header(value)


class TestSameOrigin:
    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://localhost:8765", "localhost:8765"),
            ("http://LocalHost:8765", "localhost:8765"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://[::1]:8", "[::1]:8"),
        ],
    )
    def test_the_same_scheme_host_and_port_is_the_same_origin(self, origin: str, host: str) -> None:
        assert is_same_origin(origin, "http", host)

    @pytest.mark.parametrize(
        "origin",
        [
            "null",
            "",
            "http://localhost:3000",
            "https://localhost:8765",
            "http://evil.example",
            "http://localhost:8765@evil.example",
            "http://localhost:8765/",
            "file://localhost:8765",
            "http://localhost:8765.evil.example",
        ],
    )
    def test_another_is_not(self, origin: str) -> None:
        assert not is_same_origin(origin, "http", "localhost:8765")
