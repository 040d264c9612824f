from __future__ import annotations

import pytest

from contracts.failures import InvalidInput
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

    @pytest.mark.parametrize(
        "url", ["http://x:abc", "http://x:99999", "http://[::1", "http://", "localhost:8470", "http://a\r"]
    )
    def test_an_address_that_is_none_is_refused_with_the_setting(self, url: str) -> None:
        with pytest.raises(InvalidInput, match="is not the address of a server") as refused:
            Client(url)
        assert "PATINA_API_URL" in refused.value.hint

    @pytest.mark.parametrize("key", ["patina_k_s\r", " patina_k_s", "patina_k_s\n", "patina_k_ß"])
    def test_a_key_that_cannot_be_sent_is_refused_with_the_setting_and_not_shown(self, key: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            Client("http://patina.test", key)
        assert "PATINA_API_KEY" in refused.value.hint
        assert "k_" not in str(refused.value)

    def test_another_machines_is_asked_through_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with origin() as proxy:
            proxy.gives("http://patina.test/readyz", ok(b'{"ready": true}'))
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            with Client("http://patina.test") as client:
                assert client.ready() == {"ready": True}
