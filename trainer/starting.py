"""Ctrl-C while the trainer's code is being loaded: one line that says how to go on, and no stack trace.

Nothing is under way yet, so the process ends at once: an exception may be lost in what is being loaded, or come out of
it as another. Knows nothing about what is loaded, and loads nothing itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
STDERR = 2


@contextmanager
def ending_at_once(words: Sequence[str]) -> Iterator[None]:
    """Meanwhile Ctrl-C ends the process in a line.

    Args:
        words: of the command line, after ``python -m trainer``.
    """
    nothing = "nothing was planned" if words[:1] == ["plan"] else "nothing was trained"
    line = f"interrupted while starting: {nothing} this time; to start again: {typed(words)}\n"

    def on_signal(number: int, frame: FrameType | None) -> None:
        if is_first():
            os.write(STDERR, line.encode())
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a job of a shell in the background, which Ctrl-C is not for
        yield
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def typed(words: Sequence[str]) -> str:
    """The command as a person would type it; of several processes' launcher only they know that."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "the same command"
    return shlex.join([python(), "-m", "trainer", *words])


def python() -> str:
    """How this interpreter is called from here: the one that `python` finds may lack the libraries."""
    if shutil.which("python") == sys.executable:
        return "python"
    inside = os.path.relpath(sys.executable)
    return sys.executable if inside.startswith(os.pardir) else inside


def is_first() -> bool:
    """Whether this process speaks for all that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
