"""A Patina of the demo's own: `patina up` on a home in the demo's folder and any free port, stopped at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from contracts.failures import FailureCode, PatinaError
from patina.child import command
from patina.children import die_with
from patina.client import Client
from patina.problems import from_problem

STOP_TIMEOUT_S = 180.0


@contextlib.contextmanager
def server(home: Path) -> Iterator[Client]:
    """Start everything on ``home``, give a client, stop everything.

    Raises:
        PatinaError: what kept it from starting.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PATINA_")}
    environment |= {"PATINA_HOME": str(home), "PATINA_PORT": "0"}
    process = subprocess.Popen(
        command("patina.supervise", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        # Ctrl-C reaches the demo, which then stops the server in order.
        start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )
    try:
        with Client(_announced_url(process)) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        if process.poll() is None:
            process.kill()


def _announced_url(process: subprocess.Popen[str]) -> str:
    """The address from the one document the supervisor prints when it is ready."""
    text = ""
    for line in process.stdout or ():
        text += line
        try:
            document = json.loads(text)
        except ValueError:
            continue
        if "url" in document:
            return str(document["url"])
        raise from_problem(document)
    raise PatinaError(FailureCode.INTERNAL, "The demo's server ended before it was ready.", "Read the lines above.")
