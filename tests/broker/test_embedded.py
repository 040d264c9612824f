"""The embedded broker as a real child process on a real unix socket."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker import embedded
from broker.settings import SOCKET_PATH_LIMIT_BYTES, BrokerSettings
from contracts.failures import FailureCode, PatinaError


@pytest.fixture
def settings(tmp_path: Path) -> BrokerSettings:
    return BrokerSettings(home=tmp_path / "home", broker_url="embedded")


@pytest.fixture
def broker(settings: BrokerSettings) -> Iterator[embedded.EmbeddedBroker]:
    running = embedded.start(settings)
    yield running
    running.stop()


def connect(settings: BrokerSettings) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(settings.socket), socket_timeout=5)


def wait_for_end(pid: int, timeout_s: float = 20) -> bool:
    """Whether the process ends in time; waits on the kernel, not on a clock."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], timeout_s)[0])
    finally:
        os.close(watched)


class TestStart:
    def test_answers_on_a_socket_only_the_owner_can_open(
        self, settings: BrokerSettings, broker: embedded.EmbeddedBroker
    ) -> None:
        assert connect(settings).ping()
        assert settings.socket.stat().st_mode & 0o777 == 0o700
        assert broker.alive()

    def test_opens_no_port_and_never_evicts(self, settings: BrokerSettings, broker: embedded.EmbeddedBroker) -> None:
        found = connect(settings).config_get("*")
        assert found["port"] == "0"
        assert found["maxmemory-policy"] == "noeviction"
        assert found["appendonly"] == "yes"

    @pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")
    def test_keeps_the_environment_by_which_leftovers_are_found(
        self, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("A_MARK", "of-this-test")
        running = embedded.start(settings)
        found = Path(f"/proc/{running.process.pid}/environ").read_bytes().split(b"\0")
        running.stop()
        assert b"A_MARK=of-this-test" in found

    def test_a_second_one_on_the_same_home_is_refused(
        self, settings: BrokerSettings, broker: embedded.EmbeddedBroker
    ) -> None:
        with pytest.raises(PatinaError) as refused:
            embedded.start(settings)
        assert refused.value.code is FailureCode.ALREADY_RUNNING
        assert connect(settings).ping(), "the first one must not notice"

    def test_what_was_written_is_there_after_kill_and_restart(self, settings: BrokerSettings) -> None:
        first = embedded.start(settings)
        with connect(settings) as client:
            client.config_set("appendfsync", "always")
            client.rpush("train", "a message")
        first.process.kill()
        first.process.wait()
        second = embedded.start(settings)
        try:
            assert connect(settings).lrange("train", 0, -1) == [b"a message"]
        finally:
            second.stop()

    def test_a_home_that_cannot_be_written_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(PatinaError) as refused:
            embedded.start(BrokerSettings(home=tmp_path / "file" / "home"))
        assert refused.value.code is FailureCode.HOME_UNUSABLE

    def test_a_server_that_does_not_come_up_gives_its_last_words(
        self, settings: BrokerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "bin" / "valkey-server"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho no room on this ship\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        with pytest.raises(PatinaError, match="no room on this ship") as refused:
            embedded.start(settings)
        assert refused.value.code is FailureCode.BROKER_UNAVAILABLE

    def test_a_failed_start_leaves_the_home_free(
        self, settings: BrokerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setenv("PATH", str(tmp_path))
            (tmp_path / "valkey-server").write_text("#!/bin/sh\nexit 1\n")
            (tmp_path / "valkey-server").chmod(0o755)
            with pytest.raises(PatinaError):
                embedded.start(settings)
        embedded.start(settings).stop()

    def test_no_program_at_all_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(PatinaError, match="PATINA_BROKER_URL"):
            embedded.find_program()


class TestLifetime:
    def test_ends_when_the_process_that_started_it_is_killed(self, settings: BrokerSettings) -> None:
        script = (
            "import sys; from pathlib import Path; from broker import embedded; "
            "from broker.settings import BrokerSettings; "
            "b = embedded.start(BrokerSettings(home=Path(sys.argv[1]))); "
            "sys.stdout.write(f'{b.process.pid}\\n'); sys.stdout.flush(); sys.stdin.read()"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", script, str(settings.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(embedded.__file__).parents[1],
        )
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
        assert wait_for_end(server)
        embedded.start(settings).stop()

    def test_stop_ends_it_and_frees_the_home(self, settings: BrokerSettings) -> None:
        first = embedded.start(settings)
        first.stop()
        assert not first.alive()
        assert not embedded.answers(settings.socket)
        embedded.start(settings).stop()


class TestSocketPath:
    def test_a_long_home_gets_a_short_socket_that_works(self, tmp_path: Path) -> None:
        settings = BrokerSettings(home=tmp_path / ("long" * 30))
        assert len(os.fsencode(settings.socket)) <= SOCKET_PATH_LIMIT_BYTES
        running = embedded.start(settings)
        try:
            assert embedded.answers(settings.socket)
        finally:
            running.stop()

    def test_two_long_homes_do_not_share_a_socket(self, tmp_path: Path) -> None:
        one, two = (BrokerSettings(home=tmp_path / ("long" * 30) / name) for name in ("a", "b"))
        assert one.socket != two.socket

    def test_a_home_a_url_cannot_carry_is_kept_out_of_the_url(self, tmp_path: Path) -> None:
        settings = BrokerSettings(home=tmp_path / "a b?c@d")
        assert not set(settings.url.removeprefix("redis+socket://")) & set(" ?@")
