from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.failures import FailureCode, PatinaError
from patina import home

HOLD = """
import sys; from pathlib import Path; from patina import home
with home.held(Path(sys.argv[1]), "http://127.0.0.1:1"):
    print("held", flush=True); sys.stdin.read()
"""


class TestPrepare:
    def test_it_makes_the_home_with_its_parents(self, tmp_path: Path) -> None:
        home.prepare(tmp_path / "a" / "b")
        assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["logs", "run"]
        assert list((tmp_path / "a" / "b" / "run").iterdir()) == []

    def test_a_home_that_is_a_file_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PatinaError, match="Not a directory") as caught:
            home.prepare(tmp_path / "file" / "home")
        assert caught.value.code is FailureCode.HOME_UNUSABLE

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_home_without_permission_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(PatinaError, match="Permission denied"):
            home.prepare(tmp_path / "home")

    def test_a_home_on_a_system_that_takes_no_files_is_refused(self) -> None:
        with pytest.raises(PatinaError) as caught:
            home.prepare(Path("/proc/patina"))
        assert caught.value.code is FailureCode.HOME_UNUSABLE


class TestHeld:
    def test_a_second_holder_is_told_who_has_it(self, tmp_path: Path) -> None:
        home.prepare(tmp_path)
        with home.held(tmp_path, "http://127.0.0.1:8470"):
            with pytest.raises(PatinaError, match=rf"process {os.getpid()} at http://127.0.0.1:8470") as caught:
                home.held(tmp_path, "http://other").__enter__()
            assert caught.value.code is FailureCode.ALREADY_RUNNING
            assert home.holder(tmp_path) == (os.getpid(), "http://127.0.0.1:8470")
        assert home.holder(tmp_path) is None

    def test_a_holder_that_was_killed_holds_nothing(self, tmp_path: Path) -> None:
        home.prepare(tmp_path)
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            assert home.holder(tmp_path) == (other.pid, "http://127.0.0.1:1")
            other.kill()
        assert home.holder(tmp_path) is None
        with home.held(tmp_path, "http://mine"):
            pass

    def test_a_home_nobody_made_has_no_holder(self, tmp_path: Path) -> None:
        assert home.holder(tmp_path / "nowhere") is None

    def test_an_unreadable_lock_still_refuses(self, tmp_path: Path) -> None:
        home.prepare(tmp_path)
        with home.held(tmp_path, "http://127.0.0.1:1"):
            (tmp_path / "run" / "supervisor.lock").write_text(json.dumps([]))
            with pytest.raises(PatinaError, match="another process"):
                home.held(tmp_path, "http://other").__enter__()


class TestPort:
    def test_a_port_in_use_is_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(PatinaError, match=f"Port {port}") as caught:
                home.free_port("127.0.0.1", port)
        assert caught.value.code is FailureCode.PORT_IN_USE

    def test_zero_takes_any_free_one(self) -> None:
        assert home.free_port("127.0.0.1", 0) > 0


class TestAddress:
    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("127.0.0.1", "http://127.0.0.1:80"),
            ("0.0.0.0", "http://127.0.0.1:80"),
            ("::1", "http://[::1]:80"),
            ("::", "http://[::1]:80"),
            ("box.lan", "http://box.lan:80"),
        ],
    )
    def test_it_is_one_this_machine_can_call(self, host: str, url: str) -> None:
        assert home.address(host, 80) == url


class TestHomeId:
    def test_two_ways_to_write_a_home_are_one(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert home.home_id(tmp_path / "link") == home.home_id(tmp_path / "real")
        assert home.home_id(tmp_path) != home.home_id(tmp_path / "real")
