"""Fetching from servers that lie, drag their feet, or lead elsewhere; each is a real one on loopback."""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import ssl
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.worker.origins import Origin, answer, certificate, dripping, endless, moved, ok, origin
from worker.fetch_client import MAX_REDIRECTS, fetch, trust
from worker.fetch_network import FetchLimits, NotFetched

HERE = ip_network("127.0.0.1/32")
"""The one network tests allow: 127.0.0.2 is a private address like any other."""


@pytest.fixture(scope="module")
def trusted() -> ssl.SSLContext:
    return trust()


@pytest.fixture
def web() -> Iterator[Origin]:
    with origin() as server:
        yield server


@pytest.fixture
def inside() -> Iterator[Origin]:
    """A server nobody outside may be led to."""
    with origin("127.0.0.2") as server:
        server.gives("/secret", ok(b"secret"))
        yield server


def limits(*servers: Origin, max_bytes: int = 100_000, timeout_s: float = 20) -> FetchLimits:
    return FetchLimits((HERE,), frozenset(server.port for server in servers), max_bytes, timeout_s)


def refused(url: str, trusted: ssl.SSLContext, within: FetchLimits, **options: object) -> NotFetched:
    with pytest.raises(NotFetched) as caught:
        fetch(url, within, trusted, **options)  # type: ignore[arg-type] # passed through
    assert "127.0.0" not in str(caught.value), "a reason never says where a name led"
    return caught.value


class TestWhatComes:
    def test_is_the_body_as_the_server_sent_it(self, web: Origin, trusted: ssl.SSLContext) -> None:
        assert fetch(web.gives("/a?b=1", ok(b"picture")), limits(web), trusted) == b"picture"

    def test_says_nothing_of_whoever_asks(
        self, web: Origin, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
        url = web.gives("/a", answer("302 Found", "location: /b", "set-cookie: who=me", "content-length: 0"))
        web.gives("/b", ok(b"picture"))
        assert fetch(url, limits(web), trusted) == b"picture"
        said = "".join(web.heads).lower()
        assert [word for word in ("cookie", "authorization", "referer") if word in said] == []

    def test_is_unpacked_when_it_was_packed_on_the_way(self, web: Origin, trusted: ssl.SSLContext) -> None:
        for name, packed in (("gzip", gzip.compress(b"picture")), ("deflate", zlib.compress(b"picture"))):
            url = web.gives(f"/{name}", ok(packed, f"content-encoding: {name}"))
            assert fetch(url, limits(web), trusted) == b"picture"

    @pytest.mark.parametrize(
        ("status", "passing"), [("404 Not Found", False), ("429 Slow", True), ("500 Oh", True), ("206 Part", False)]
    )
    def test_of_any_status_but_200_is_nothing_and_says_which(
        self, web: Origin, trusted: ssl.SSLContext, status: str, passing: bool
    ) -> None:
        error = refused(web.gives("/a", answer(status, "content-length: 0")), trusted, limits(web))
        assert f"answered {status[:3]}" in str(error)
        assert error.passing is passing


class TestSize:
    def test_that_is_announced_as_too_large_is_not_waited_for(self, web: Origin, trusted: ssl.SSLContext) -> None:
        head = answer("200 OK", "content-length: 100001")
        error = refused(web.gives("/a", lambda c, over: _and_wait(c, over, head)), trusted, limits(web))
        assert "larger than 100000 bytes" in str(error)
        assert not error.passing

    def test_of_an_endless_body_is_counted(self, web: Origin, trusted: ssl.SSLContext) -> None:
        for head in (answer("200 OK"), answer("200 OK", "transfer-encoding: chunked", body=b"ffffff\r\n")):
            assert "larger" in str(refused(web.gives("/a", endless(head)), trusted, limits(web)))

    def test_is_that_of_the_unpacked_body(self, web: Origin, trusted: ssl.SSLContext) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        assert len(bomb) < 100_000
        url = web.gives("/a", ok(bomb, "content-encoding: gzip"))
        tracemalloc.start()
        error = refused(url, trusted, limits(web))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "larger than 100000" in str(error)
        assert peak_bytes < 5_000_000, "no more was unpacked than the limit asks for"

    def test_that_is_not_reached_is_a_connection_that_broke_off(self, web: Origin, trusted: ssl.SSLContext) -> None:
        whole = gzip.compress(bytes(range(256)))
        for url in (
            web.gives("/short", answer("200 OK", "content-length: 50", body=b"picture")),
            web.gives("/cut", ok(whole[:-9], "content-encoding: gzip")),
            web.gives("/chunks", answer("200 OK", "transfer-encoding: chunked", body=b"7\r\npicture\r\n")),
            web.gives("/nothing", b""),
            web.gives("/number", answer("200 OK", f"content-length: {'9' * 5000}")),
            web.gives("/other", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ):
            error = refused(url, trusted, limits(web))
            assert "broke off" in str(error), url
            assert error.passing

    def test_that_is_passed_is_cut_where_the_server_said(self, web: Origin, trusted: ssl.SSLContext) -> None:
        url = web.gives("/a", answer("200 OK", "content-length: 3", body=b"picture"))
        assert fetch(url, limits(web), trusted) == b"pic"


class TestTime:
    @pytest.mark.parametrize("whole", [b"HTTP/1.1 200 OK\r\nx: ", answer("200 OK", "content-length: 9999")])
    def test_ends_for_a_server_that_drips_head_or_body(
        self, web: Origin, trusted: ssl.SSLContext, whole: bytes
    ) -> None:
        # Bytes keep coming, so that no time-out of a single read is ever met.
        error = refused(web.gives("/a", dripping(whole)), trusted, limits(web, timeout_s=0.5))
        assert "after 0.5 s" in str(error)
        assert error.passing

    def test_ends_for_a_resolver_that_does_not_answer(self, web: Origin, trusted: ssl.SSLContext) -> None:
        def never(host: str, port: int) -> list[str]:
            web.over.wait()
            return []

        url = f"http://slow.test:{web.port}/"
        assert "after 0.2 s" in str(refused(url, trusted, limits(web, timeout_s=0.2), resolve=never))


class TestWhere:
    def test_a_name_may_not_lead_inside(self, web: Origin, inside: Origin, trusted: ssl.SSLContext) -> None:
        for address in ("127.0.0.2", "::1", "10.1.2.3", "169.254.169.254"):
            for others in ([], ["127.0.0.1"]):
                error = refused(
                    f"http://pictures.test:{inside.port}/secret",
                    trusted,
                    limits(web, inside),
                    resolve=lambda host, port, found=(*others, address): list(found),
                )
                assert "no public address" in str(error)
                assert not error.passing
        assert inside.asked == []
        assert web.asked == []

    @pytest.mark.parametrize("host", ["127.0.0.2", "127.2", "0x7f.2", "2130706434", "0177.0.0.2", "[::ffff:127.0.0.2]"])
    def test_an_address_in_figures_may_not_either_however_it_is_written(
        self, inside: Origin, trusted: ssl.SSLContext, host: str
    ) -> None:
        error = refused(f"http://{host}:{inside.port}/secret", trusted, limits(inside))
        assert re.search("no public address|not a complete address", str(error))
        assert inside.asked == []

    def test_a_redirect_may_not_lead_inside(self, web: Origin, inside: Origin, trusted: ssl.SSLContext) -> None:
        port = inside.port
        for number, place in enumerate((f"http://127.0.0.2:{port}/secret", f"//127.0.0.2:{port}/secret")):
            url = web.gives(f"/{number}", moved(place))
            assert "no public address" in str(refused(url, trusted, limits(web, inside)))
        assert inside.asked == []
        assert web.asked == ["/0", "/1"]

    @pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://h/x", "gopher://h/x", "http://me:pw@h/", "http://"])
    def test_a_redirect_leads_to_the_web_or_nowhere(self, web: Origin, trusted: ssl.SSLContext, place: str) -> None:
        assert "leads on to" in str(refused(web.gives("/a", moved(place)), trusted, limits(web)))

    def test_redirects_are_followed_so_many_times(self, web: Origin, trusted: ssl.SSLContext) -> None:
        for hop in range(MAX_REDIRECTS):
            web.gives(f"/{hop}", moved(f"/{hop + 1}"))
        web.gives(f"/{MAX_REDIRECTS}", ok(b"picture"))
        start = web.gives("/start", moved("/0"))
        assert fetch(start.replace("start", "0"), limits(web), trusted) == b"picture"
        assert "more than 5 times" in str(refused(start, trusted, limits(web)))

    def test_a_name_is_looked_up_once_and_the_connection_goes_where_it_led(
        self, web: Origin, inside: Origin, trusted: ssl.SSLContext
    ) -> None:
        web.gives("/secret", ok(b"public"))
        led = ["127.0.0.1", "127.0.0.2"]
        found = fetch(
            f"http://rebinding.test:{web.port}/secret",
            limits(web, inside),
            trusted,
            resolve=lambda host, port: [led.pop(0)],
        )
        assert (found, led) == (b"public", ["127.0.0.2"])
        assert f"host: rebinding.test:{web.port}" in web.heads[0].lower()

    def test_a_name_that_led_outside_is_checked_again_after_a_redirect(
        self, web: Origin, inside: Origin, trusted: ssl.SSLContext
    ) -> None:
        web.gives("/a", moved(f"http://rebinding.test:{inside.port}/secret"))
        led = iter(["127.0.0.1", "127.0.0.2"])
        url = f"http://rebinding.test:{web.port}/a"
        error = refused(url, trusted, limits(web, inside), resolve=lambda host, port: [next(led)])
        assert "no public address" in str(error)
        assert inside.asked == []

    def test_ports_are_those_of_the_web(self, web: Origin, trusted: ssl.SSLContext) -> None:
        error = refused(web.gives("/a", ok(b"x")), trusted, FetchLimits((HERE,)))
        assert "only 80, 443" in str(error)
        assert web.asked == []

    def test_a_name_nobody_knows_is_told_as_one_that_leads_inside(self, web: Origin, trusted: ssl.SSLContext) -> None:
        def unknown(host: str, port: int) -> list[str]:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        def inside(host: str, port: int) -> list[str]:
            return ["10.0.0.1"]

        told = [refused(f"http://h.test:{web.port}/", trusted, limits(web), resolve=way) for way in (unknown, inside)]
        assert str(told[0]) == str(told[1])
        assert [error.passing for error in told] == [False, False]

    def test_a_resolver_in_trouble_may_answer_later(self, web: Origin, trusted: ssl.SSLContext) -> None:
        def troubled(host: str, port: int) -> list[str]:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")

        assert refused(f"http://h.test:{web.port}/", trusted, limits(web), resolve=troubled).passing

    def test_the_next_address_of_a_name_is_tried_when_the_first_does_not_answer(
        self, web: Origin, trusted: ssl.SSLContext
    ) -> None:
        both = FetchLimits((ip_network("127.0.0.0/8"),), frozenset({web.port}), 1000, 20)
        web.gives("/a", ok(b"picture"))
        found = fetch(
            f"http://two.test:{web.port}/a", both, trusted, resolve=lambda host, port: ["127.0.0.3", "127.0.0.1"]
        )
        assert found == b"picture"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
class TestTls:
    @pytest.fixture
    def secure(self, tmp_path: Path) -> Iterator[Origin]:
        pem = certificate(tmp_path, "pictures.test", lambda line: subprocess.run(line, check=True, capture_output=True))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, pem.with_suffix(".key"))
        with origin("127.0.0.1", context) as server:
            server.gives("/a", ok(b"picture"))
            yield server

    def test_speaks_to_the_name_though_it_connects_to_the_address(self, secure: Origin, tmp_path: Path) -> None:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "pictures.test.pem"))
        url = f"https://pictures.test:{secure.port}/a"
        assert fetch(url, limits(secure), trusted, lambda host, port: ["127.0.0.1"]) == b"picture"
        assert secure.names == ["pictures.test"]

    def test_refuses_a_certificate_for_another_name_or_of_no_authority(
        self, secure: Origin, tmp_path: Path, trusted: ssl.SSLContext
    ) -> None:
        own = ssl.create_default_context(cafile=str(tmp_path / "pictures.test.pem"))
        for name, context in (("other.test", own), ("pictures.test", trusted)):
            url = f"https://{name}:{secure.port}/a"
            error = refused(url, context, limits(secure), resolve=lambda host, port: ["127.0.0.1"])
            assert "certificate" in str(error)
            assert not error.passing
        assert secure.asked == []


def _and_wait(connection: socket.socket, over: threading.Event, head: bytes) -> None:
    connection.sendall(head)
    over.wait()
