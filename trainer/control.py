"""How a running trainer is asked for something: files in control/, SIGTERM, Ctrl-C, a terminal that is closed.

Handlers only set a flag; the loop asks between optimiser steps, and all ranks act on the sum of their flags,
so they stop after the same step. Knows nothing about what is done then.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import get_args

from contracts.rundir import Control, RunDir


class StopRequested(Exception):
    """Work before the first step was broken off on request."""


REQUESTS: tuple[Control, ...] = get_args(Control)


@dataclass
class Requests:
    """What was asked of this process since it was last looked at."""

    run_dir: RunDir
    watches_files: bool
    """Only one rank looks at the files, so a request is seen once."""
    signalled: bool = False

    def pending(self) -> list[bool]:
        """Whether each of REQUESTS is waiting here; acting on it is ``done``'s business."""
        found = [self.watches_files and self.run_dir.control(name).exists() for name in REQUESTS]
        found[REQUESTS.index("stop")] |= self.signalled
        return found

    def stop_wanted(self) -> bool:
        """Whether to stop, as far as any one rank can see; for work in which ranks do not step together."""
        return self.signalled or self.run_dir.control("stop").exists()

    def done(self, name: Control) -> None:
        """Take a request away once it has been acted on."""
        if self.watches_files:
            self.run_dir.control(name).unlink(missing_ok=True)


@contextmanager
def listening(run_dir: RunDir, *, watches_files: bool) -> Iterator[Requests]:
    """Turn SIGTERM, SIGHUP and the first Ctrl-C into a stop request; a second Ctrl-C ends the process as usual.

    A SIGHUP that whoever started the process has it ignore, as nohup does, stays ignored.
    """
    requests = Requests(run_dir, watches_files)

    def on_signal(number: int, frame: FrameType | None) -> None:
        requests.signalled = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    heard = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
