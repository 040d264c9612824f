"""One attempt at a run: take the run directory, train, and end with an outcome whatever happens.

Here alone errors become words: known ones with their code and hint, unknown ones with a reference id whose stack
trace is in trainer.log. Knows nothing about training.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from contracts import events
from contracts.failures import FAILURES, FailureCode, InvalidInput, PatinaError
from contracts.rundir import Completed, Failed, Manifest, Outcome, RunDir, Stopped
from trainer.control import Requests, StopRequested, listening
from trainer.folder import (
    Completion,
    Done,
    completed_before,
    completion,
    end,
    leave_reserve,
    new_reference,
    only_trainer,
    prepare,
    put_back,
    read_outcome,
    seal,
)
from trainer.identify import refuse_other_inputs
from trainer.loop import Record
from trainer.parts import Job
from trainer.processes import Processes, join, leave
from trainer.report import Display, EventFile, JsonLines, Report, Terminal
from trainer.room import is_full
from trainer.run import train

NO_MEMORY = re.compile(r"can't allocate memory|CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
"""What says that memory ran out elsewhere than in torch's own allocator."""
UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

log = logging.getLogger(__name__)


def attempt(job: Job, run_dir: RunDir, console: Console, *, as_json: bool = False, command: str = "") -> int:
    """Run ``job`` in ``run_dir``, going on where an earlier attempt was; returns the exit status.

    Args:
        as_json: print one line of JSON an event, and nothing else.
        command: what goes on with the run when it is stopped, as a person would type it; else the same words again.

    Raises:
        PatinaError: the run directory is not free, or is complete with another configuration or other inputs; it is
            untouched.
    """
    processes = join()
    try:
        with ExitStack() as stack:
            done = None
            if processes.is_main:
                stack.enter_context(only_trainer(run_dir))
                done = completed_before(run_dir, job.recipe.config)
                if done is not None:
                    refuse_other_inputs(job, run_dir)
            done = processes.from_main(done)
            if done is not None:
                if processes.is_main:
                    _say_done(run_dir, done, console, as_json=as_json)
                return 0
            complete = completion(run_dir) if processes.is_main else None
            if processes.is_main:
                prepare(run_dir, job.recipe.config)
            processes.wait()
            stack.enter_context(_logging_to(run_dir, processes))
            requests = stack.enter_context(listening(run_dir, watches_files=processes.is_main))
            steps = job.recipe.config.steps
            again = command if processes.count == 1 else ""

            def show() -> JsonLines | Terminal:
                return JsonLines(console.file) if as_json else Terminal(console, steps, again)

            return _end_in_words(job, run_dir, processes, requests, show, complete)
    finally:
        leave()


def _say_done(run_dir: RunDir, done: Done, console: Console, *, as_json: bool) -> None:
    step = done.outcome.step
    message = f"{run_dir.root}: already complete after {step} steps; nothing to do."
    if done.without_effect:
        message += f" What differs came too late to change anything: {', '.join(done.without_effect)}."
    if as_json:
        JsonLines(console.file)(events.Finished(at=time.time(), step=step, state=done.outcome.state, message=message))
    else:
        console.print(message, markup=False, highlight=False, soft_wrap=True)


def _end_in_words(
    job: Job,
    run_dir: RunDir,
    processes: Processes,
    requests: Requests,
    show: Callable[[], JsonLines | Terminal],
    complete: Completion | None,
) -> int:
    """One attempt and its end.

    Args:
        complete: what said that the run was complete before it was to have more steps.
    """
    record = Record()
    with _reporting(run_dir, processes, show) as report:
        manifest = None
        outcome: Outcome
        try:
            outcome, manifest = train(job, run_dir, processes, requests, report, record)
        except StopRequested:
            requests.done("stop")
            outcome = Stopped(step=record.step)
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is becomes an outcome
            outcome = _failed(error, record.step, run_dir.root)
        if isinstance(outcome, Failed) or processes.is_main:
            outcome = _written(run_dir, outcome, manifest)
        code, message = None, ""
        if isinstance(outcome, Failed):
            code, message = outcome.code, f"{outcome.message} {outcome.hint}"
        elif isinstance(outcome, Completed):
            message = f"weights and what else it made are in {run_dir.root}"
        report(events.Finished(at=time.time(), step=outcome.step, state=outcome.state, code=code, message=message))
    if isinstance(outcome, Failed) and complete is not None and record.step <= complete.outcome.step:
        put_back(complete)
    return int(isinstance(outcome, Failed))


def _written(run_dir: RunDir, outcome: Outcome, manifest: Manifest | None) -> Outcome:
    """Write how the attempt ended; returns how it did, which another rank may have known before."""
    try:
        if not end(run_dir, outcome):
            return read_outcome(run_dir) or outcome
        if isinstance(outcome, Completed) and manifest is not None:
            seal(run_dir, manifest)
    except OSError as error:
        if isinstance(outcome, Completed):
            # Without its manifest it is not complete: the next attempt ends it.
            run_dir.outcome.unlink(missing_ok=True)
        outcome = _failed(error, outcome.step, run_dir.root)
        try:
            end(run_dir, outcome)
        except OSError:
            log.error("the outcome cannot be written", exc_info=True)
    leave_reserve(run_dir)
    return outcome


def _failed(error: Exception, step: int, folder: Path) -> Failed:
    reference = None
    if isinstance(error, PatinaError):
        code, hint = error.code, error.hint
        message = str(error.args[0]) if isinstance(error, InvalidInput) else error.message
        log.error("%s: %s", code, error, exc_info=True)
    elif isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY.search(str(error)):
        code = FailureCode.OUT_OF_MEMORY
        message, hint = FAILURES[code].message, FAILURES[code].hint
        log.error("out of memory", exc_info=True)
    elif is_full(error):
        code = FailureCode.DISK_FULL
        message, hint = f"The disk of {folder} is full.", FAILURES[code].hint
        log.error("disk full", exc_info=True)
    elif isinstance(error, OSError) and error.errno in UNWRITABLE:
        code = FailureCode.HOME_UNUSABLE
        message = f"{error.filename or 'A file of the run'} cannot be written: {error.strerror}."
        hint = "Change the permissions, then start the same command again."
        log.error("cannot write", exc_info=True)
    else:
        code, reference = FailureCode.INTERNAL, new_reference()
        message = f"{FAILURES[code].message} Reference: {reference}."
        hint = "The stack trace is in trainer.log in the run directory, under this reference."
        log.error("reference %s", reference, exc_info=True)
    retryable = FAILURES[code].retryable
    return Failed(step=step, code=code, message=message, hint=hint, retryable=retryable, reference=reference)


@contextmanager
def _reporting(run_dir: RunDir, processes: Processes, show: Callable[[], JsonLines | Terminal]) -> Iterator[Report]:
    if not processes.is_main:
        yield Report()
        return
    file, shown = EventFile(run_dir.events), Display(show())
    try:
        yield Report(file, shown)
    finally:
        shown.close()
        file.close()


@contextmanager
def _logging_to(run_dir: RunDir, processes: Processes) -> Iterator[None]:
    handler = logging.FileHandler(run_dir.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank {processes.rank} %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
