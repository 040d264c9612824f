"""Asks another Python module of the project something in a process of its own: one JSON document comes back.

That is how the light command uses what loads a database driver or torch. Knows nothing about what is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from contracts.failures import FailureCode, PatinaError
from patina.problems import as_json, from_problem, to_problem, unexpected


def command(module: str, *arguments: str) -> list[str]:
    """The command line of ``python -m module`` with this very Python."""
    return [sys.executable, "-m", module, *arguments]


def ask(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run the module, let its words through to our standard error and return what it printed.

    Raises:
        PatinaError: the module's own failure, or INTERNAL when it ended without an answer.
    """
    done = subprocess.run(
        command(module, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return answer(module, done.returncode, done.stdout)


def tell(work: Callable[[], Any]) -> int:
    """The other side of ``ask``: do the work and print what it returns, or the problem; the exit code."""
    try:
        document, code = work(), 0
    except PatinaError as error:
        document, code = to_problem(error), 1
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the caller gets a reference to it
        document, code = to_problem(unexpected(error)), 1
    sys.stdout.write(as_json(document) + "\n")
    return code


def answer(module: str, code: int, output: bytes) -> Any:
    """The document a module printed, or its failure as an exception."""
    try:
        document = json.loads(output)
    except ValueError:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise PatinaError(FailureCode.INTERNAL, f"`python -m {module}` {how} and gave no answer.") from None
    if code != 0:
        raise from_problem(document)
    return document
