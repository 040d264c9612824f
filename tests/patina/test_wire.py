from __future__ import annotations

import pytest

from patina.client import Client
from tests.worker.origins import ok, origin

NOWHERE = "http://127.0.0.1:1"


class TestConnection:
    @pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
    def test_a_server_on_this_machine_is_asked_without_the_proxy_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, NOWHERE)
        with origin() as server:
            server.gives("/readyz", ok(b'{"ready": true}'))
            for host in ("127.0.0.1", "localhost"):
                with Client(f"http://{host}:{server.port}") as client:
                    assert client.ready() == {"ready": True}

    def test_another_machines_is_asked_through_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with origin() as proxy:
            proxy.gives("http://patina.test/readyz", ok(b'{"ready": true}'))
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            with Client("http://patina.test") as client:
                assert client.ready() == {"ready": True}
