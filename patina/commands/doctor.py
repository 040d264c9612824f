"""`patina doctor`: what is installed, what it runs on, and what is missing; starts nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from contracts.failures import PatinaError
from patina import home
from patina.child import ask
from patina.client import Client
from patina.connect import server_url
from patina.output import AsJson, give, size
from patina.settings import Settings, environment_of, read_settings

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "celery", "sqlalchemy", "fastapi", "wandb")
TRAINING = frozenset({"torch", "diffusers", "transformers", "peft", "accelerate"})
SCARCE_DISK_BYTES = 5_000_000_000
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")

State = Literal["ok", "note", "bad"]
MARKS: dict[State, Text] = {
    "ok": Text("✓", style="green"),
    "note": Text("·", style="yellow"),
    "bad": Text("✗", style="red"),
}


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    state: State
    words: str


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which device there is, and whether home, broker and server are in order."""
    settings = read_settings()
    looks: list[Callable[[Settings], list[Finding]]] = [_python, _packages, _device, _home, _broker, _server]
    found = [finding for look in looks for finding in look(settings)]
    healthy = all(finding.state != "bad" for finding in found)
    answer: dict[str, Any] = {"healthy": healthy, "findings": [finding._asdict() for finding in found]}
    give(answer, as_json, lambda: _table(found))
    if not healthy:
        raise typer.Exit(1)


def _table(found: list[Finding]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        table.add_row(MARKS[finding.state], Text(finding.what, style="bold"), Text(finding.words))
    return table


def _python(_settings: Settings) -> list[Finding]:
    version = importlib.metadata.version("patina")
    words = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    recent = sys.version_info >= (3, 11)
    return [Finding("patina", "ok", version), Finding("python", "ok" if recent else "bad", words)]


def _packages(_settings: Settings) -> list[Finding]:
    found = []
    for name in PACKAGES:
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            words = "not installed: this machine cannot train or generate" if name in TRAINING else "not installed"
            found.append(Finding(name, "note" if name in TRAINING or name == "wandb" else "bad", words))
    return found


def _device(_settings: Settings) -> list[Finding]:
    memory = size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    cores = Finding("processor", "ok", f"{os.cpu_count()} cores, {memory} of memory")
    gpus = _gpus()
    if not gpus:
        return [cores, Finding("gpu", "note", "none found: training runs on the processor, which suits the demo only")]
    return [cores, *(Finding("gpu", "ok", gpu) for gpu in gpus)]


def _gpus() -> list[str]:
    if shutil.which(NVIDIA_SMI[0]) is None:
        return []
    try:
        listed = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def _home(settings: Settings) -> list[Finding]:
    folder = settings.folder
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return [Finding("home", "bad", f"{folder} cannot be written")]
    free = shutil.disk_usage(there).free
    enough = free >= SCARCE_DISK_BYTES
    return [
        Finding("home", "ok", str(folder) + ("" if folder.exists() else " (made by the first `patina up`)")),
        Finding("disk", "ok" if enough else "note", f"{size(free)} free"),
    ]


def _broker(settings: Settings) -> list[Finding]:
    if settings.broker_url != "embedded":
        return [Finding("broker", "ok", _without_secret(settings.broker_url))]
    try:
        program = ask("patina.local", "find-broker", environment=environment_of(settings))["program"]
    except PatinaError as error:
        return [Finding("broker", "bad", f"{error.message} {error.hint}")]
    return [Finding("broker", "ok", f"embedded, {Path(program).name} ({program})")]


def _server(settings: Settings) -> list[Finding]:
    url = server_url(settings)
    running = home.holder(settings.folder)
    who = f" (process {running.pid})" if running else ""
    try:
        with Client(url) as client:
            checks = client.ready()["checks"]
    except (PatinaError, ValueError, KeyError):
        return [Finding("server", "note", f"none answers at {url}; `patina up` starts one")]
    broken = [name for name, state in checks.items() if state != "ok"]
    words = f"{url}{who} " + (f"is not ready: {', '.join(broken)}" if broken else "is ready")
    return [Finding("server", "bad" if broken else "ok", words)]


def _without_secret(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]
