"""Runs Patina on one machine: takes the home, starts every process, keeps them there, ends them all.

    home and lock -> leftovers -> port -> database -> broker -> api, workers -> ready ... stop: workers, api, broker

A module of its own to run (`python -m patina.supervise`, which is what `patina up` becomes). Knows nothing about
what the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.panel import Panel
from rich.text import Text

from contracts.failures import FailureCode, PatinaError
from contracts.rundir import Grace
from patina import children, home, leftovers, output, processes
from patina.child import answer, ask, command
from patina.children import Child
from patina.problems import unexpected
from patina.settings import Settings, read_settings

READY_TIMEOUT_S = 120.0
POLL_S = 0.1
STEADY_S = 2.0
DEATHS_BEFORE_READY = 3
"""A process that dies this often before the first answer will not come up by trying again."""
WORKER_GRACE_S = 150.0
"""Longer than a worker gives its trainer to end its step and write a checkpoint, where that has not said more."""
WORKER_LEAVES_S = 60.0
"""What a worker needs beside the time its trainer has asked for."""
API_GRACE_S = 10.0
SWEEP_GRACE_S = 10.0

COLOURS = {"broker": "magenta", "api": "cyan", "light": "green", "train": "yellow", "generate": "blue"}


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop; the exit code."""
    as_document = "--json" in arguments
    try:
        run(read_settings(), as_document)
    except PatinaError as error:
        output.show_failure(error, as_document)
        return 1
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the user gets a reference to it
        output.show_failure(unexpected(error), as_document)
        return 1
    return 0


def run(settings: Settings, as_document: bool) -> None:
    """Start everything, wait for a signal, stop everything.

    Raises:
        PatinaError: the home or port cannot be used, another copy runs, or a process does not come up.
    """
    folder = settings.folder
    if settings.port == 0:
        settings = settings.model_copy(update={"port": home.free_port(settings.host, 0)})
    url = home.address(settings.host, settings.port)
    home.prepare(folder)
    with home.held(folder, url):
        stop = _stop_on_signals()
        mark = (home.MARKER, home.home_id(folder))
        if ended := leftovers.sweep(*mark, WORKER_GRACE_S):
            _say("patina", f"ended {len(ended)} processes an earlier run left behind")
        home.free_port(settings.host, settings.port)
        # The broker starts with our own environment.
        os.environ[home.MARKER] = mark[1]
        variables = processes.environment(settings)
        try:
            for part in ("api", "worker"):
                ask(part, environment=variables)
            prepared = ask("patina.local", "prepare", environment=variables)
        except PatinaError:
            if stop.is_set():
                return
            raise
        groups = [processes.broker(settings), [processes.api(settings, variables)]]
        groups.append(processes.workers(settings, variables))
        try:
            _start_and_watch(settings, url, groups, variables, bool(prepared["demo_base_missing"]), as_document, stop)
        finally:
            _stop_all(groups, stop, worker_grace_s(folder))
            leftovers.sweep(*mark, SWEEP_GRACE_S)


def _start_and_watch(
    settings: Settings,
    url: str,
    groups: list[list[Child]],
    variables: dict[str, str],
    add_demo_base: bool,
    as_document: bool,
    stop: threading.Event,
) -> None:
    everyone = [child for group in groups for child in group]
    for child in everyone:
        failure = children.start(child, time.monotonic())
        _say(child.name, failure or f"started (pid {child.process.pid if child.process else '?'})")
    adding = _add_demo_base(variables) if add_demo_base else None
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not stop.is_set() and not (_steady(everyone) and _ready(url)):
        _tend(everyone)
        _give_up_on_the_hopeless(everyone, deadline)
        stop.wait(POLL_S)
    if adding is not None:
        _finish_demo_base(adding, everyone, stop)
    if not stop.is_set():
        _announce(settings, url, as_document)
    while not stop.wait(POLL_S):
        _tend(everyone)


def _tend(everyone: list[Child]) -> None:
    for child in everyone:
        if (happened := children.tend(child, time.monotonic())) is not None:
            _say(child.name, happened)


def _give_up_on_the_hopeless(everyone: list[Child], deadline: float) -> None:
    for child in everyone:
        if child.deaths >= DEATHS_BEFORE_READY:
            words = children.last_words(child.log)
            raise PatinaError(
                FailureCode.INTERNAL, f"{child.name} does not start. Its last words:\n{words}", f"Read {child.log}."
            )
    if time.monotonic() > deadline:
        raise PatinaError(
            FailureCode.INTERNAL,
            f"The server did not become ready in {READY_TIMEOUT_S:g} s.",
            f"Read the logs in {everyone[-1].log.parent}.",
        )


def _steady(everyone: list[Child]) -> bool:
    """Whether every process has run for a moment: what cannot start at all ends sooner than that."""
    return all(child.start_again_s is None and time.monotonic() - child.started_s > STEADY_S for child in everyone)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _add_demo_base(variables: dict[str, str]) -> subprocess.Popen[bytes]:
    _say("patina", "adding the demo base emoji-xl, once (it is read and measured)")
    return subprocess.Popen(
        command("patina.local", "add-demo-base"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=variables,
        start_new_session=True,
        preexec_fn=children.die_with(os.getpid()),
    )


def _finish_demo_base(adding: subprocess.Popen[bytes], everyone: list[Child], stop: threading.Event) -> None:
    while adding.poll() is None:
        if stop.wait(POLL_S):
            adding.terminate()
        _tend(everyone)
    printed = adding.stdout.read() if adding.stdout else b""
    if stop.is_set():
        return
    try:
        answer("patina.local", adding.returncode, printed)
    except PatinaError as error:
        _say("patina", f"the demo base could not be added: {error.message} {error.hint}")


def _announce(settings: Settings, url: str, as_document: bool) -> None:
    logs = settings.folder / "logs"
    if as_document:
        output.write_document({"url": url, "home": str(settings.folder), "logs": str(logs), "pid": os.getpid()})
        return
    text = Text.assemble(
        ("Patina is ready  ", "bold green"), (url, "bold underline"), "\n",
        ("home  ", "dim"), str(settings.folder), "\n",
        ("logs  ", "dim"), str(logs), "\n",
        ("stop  ", "dim"), "Ctrl-C",
    )  # fmt: skip
    output.console.print(Panel(text, border_style="green", expand=False))


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def note(number: int, _frame: object) -> None:
        if stop.is_set():
            _hurry.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup the end of the terminal is not meant for us.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, note)
    return stop


_hurry = threading.Event()
"""Set by a second signal: do not wait for anyone."""


def worker_grace_s(folder: Path) -> float:
    """How long workers may take to end: as long as the slowest of the trainers that ran here has said it needs."""
    asked = [WORKER_GRACE_S]
    for file in folder.glob("runs/*/grace.json"):
        with contextlib.suppress(OSError, ValueError):  # a trainer may be writing it anew, or its run be removed
            asked.append(Grace.model_validate_json(file.read_bytes()).grace_s + WORKER_LEAVES_S)
    return max(asked)


def _stop_all(groups: list[list[Child]], stop: threading.Event, grace_s: float = WORKER_GRACE_S) -> None:
    stop.set()
    broker, api, workers = groups
    _say("patina", "stopping; a running trainer saves a checkpoint first (again to end at once)")
    for group, wait_s in ((workers, grace_s), (api, API_GRACE_S), (broker, API_GRACE_S)):
        children.stop(group, wait_s, _hurry.wait, time.monotonic)
    _say("patina", "stopped")


def _say(name: str, words: str) -> None:
    line = Text.assemble((time.strftime("%H:%M:%S"), "dim"), (f"{name:>9} ", COLOURS.get(name, "bold")), words)
    # A terminal that is gone (rich turns that into SystemExit) must not keep the processes from being ended in order.
    with contextlib.suppress(OSError, SystemExit):
        output.notes.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
