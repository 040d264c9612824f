"""`patina up` and the `patina` command with real processes, for the tests that drive them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from patina import leftovers
from patina.cli import main
from patina.home import MARKER, home_id

PATIENCE_S = 90.0


@dataclass
class Machine:
    """`patina up` on one home."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    """PATINA_* variables besides the home and the port."""
    process: subprocess.Popen[str] | None = None
    said: dict[str, Any] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "patina", *arguments]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PATINA_")}
        return kept | {"PATINA_HOME": str(self.home), "PATINA_PORT": "0"} | self.settings

    def up(self, *options: str) -> dict[str, Any]:
        """Start it in a session of its own and wait until it says that it is ready."""
        self.process = subprocess.Popen(
            self.command("up", "--json", *options),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=(self.home.parent / "terminal.log").open("ab"),
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        document = ""
        for line in self.process.stdout:
            document += line
            if line.startswith("}"):
                break
        assert document, (self.home.parent / "terminal.log").read_text()
        self.said = json.loads(document)
        return self.said

    def run(self, *arguments: str) -> tuple[int, Any]:
        """One command with --json against this home: exit code and document."""
        done = subprocess.run(
            self.command(*arguments, "--json"), env=self.environment(), capture_output=True, text=True, check=False
        )
        return done.returncode, json.loads(done.stdout)

    def ask(self, *arguments: str) -> tuple[int, Any]:
        """The same in this process, where it proves nothing of the command line itself: a start takes most of a second.

        Not for ``up``, which replaces the process.
        """
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            for name in [name for name in os.environ if name.startswith("PATINA_")]:
                patch.delenv(name)
            for name, value in self.environment().items():
                patch.setenv(name, value)
            code = main([*arguments, "--json"])
        return code, json.loads(said.getvalue())

    def processes(self) -> list[int]:
        """Every process with this home's mark or path, however it came to be; Valkey writes over its environment."""
        named = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if str(self.home) in _command_line(entry)]
        return sorted({*leftovers.marked(MARKER, home_id(self.home)), *named})

    def process_of(self, words: str) -> int | None:
        """The marked process whose command line holds ``words``."""
        for pid in self.processes():
            if words in _command_line(Path(f"/proc/{pid}")):
                return pid
        return None

    def end(self, number: signal.Signals) -> int:
        """Signal the supervisor's whole terminal, as Ctrl-C does, and wait for it."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def machine_on(home: Path, **settings: str) -> Iterator[Machine]:
    """A machine whose processes are gone afterwards, whatever the test did."""
    made = Machine(home, settings)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()
        leftovers.sweep(MARKER, home_id(home), grace_s=5.0)


def eventually(check: Any) -> Any:
    """The first true answer of ``check``; the test fails when none comes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if answer := check():
            return answer
    raise AssertionError("it never came true")


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
