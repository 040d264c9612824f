"""The trainer's command line: everything that can be wrong with a recipe is said before torch is imported.

`python -m trainer CONFIG.yaml [key=value ...] --run-dir DIR` trains; `python -m trainer plan CONFIG.yaml` says what
it would take. Knows nothing about how either is done.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from contracts.events import Finished
from contracts.failures import FAILURES, InvalidInput, PatinaError, dotted
from contracts.loading import loading
from contracts.rundir import Failed, RunDir
from contracts.settings import waiting_threads
from contracts.sizes import parse_bytes
from trainer.folder import end, only_trainer
from trainer.needs import refuse_missing_libraries
from trainer.recipe import Recipe, read_recipe
from trainer.starting import INTERRUPTED, ending_at_once, is_first, typed

FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status.

    0 for done, and for stopped as asked: outcome.json tells them apart. 1 after an error, 2 for misuse, 130 when
    interrupted without having saved.
    """
    os.environ.update(waiting_threads(os.environ))
    words = list(arguments)
    planning = words[:1] == ["plan"]
    options = _parser(planning).parse_intermixed_args(words[1:] if planning else words)
    console = Console()
    try:
        recipe = read_recipe(
            options.config,
            options.settings,
            base_dir=options.base_dir,
            dataset_dirs=options.dataset_dir,
            dataset_weights=options.dataset_weight,
            init_weights=options.init_weights,
        )
        if planning:
            return _plan(recipe, options, console, words)
        return _train(recipe, options, console, words)
    except KeyboardInterrupt:
        told = "interrupted" if planning else _how_to_go_on(RunDir(options.run_dir), typed(words))
        Console(stderr=True).print(told, markup=False, highlight=False, soft_wrap=True)
        return INTERRUPTED
    except PatinaError as error:
        if not planning and options.json_events:
            if is_first():
                _tell(error)
        else:
            _explain(error, Console(stderr=True))
        if not planning and isinstance(error, InvalidInput):
            _record(error, options.run_dir)
        return FAILED


def _train(recipe: Recipe, options: argparse.Namespace, console: Console, words: Sequence[str]) -> int:
    refuse_missing_libraries(recipe.config)
    with ending_at_once(words), loading():
        if recipe.config.tracking.enabled:
            # What wandb.init loads: its models look for their own source in every module there is, so it takes 0.7 s
            # now and 1.4 s once torch and transformers are loaded (processor time of two cores with other work).
            importlib.import_module("wandb.sdk.launch")
        # The one place of inner imports: torch is loaded once the recipe is known to be right.
        from trainer.attempt import attempt
        from trainer.parts import Job

    job = Job(
        recipe,
        options.cache_dir,
        use_cache=not options.no_cache,
        memory_bytes=options.memory,
        base_identity=options.base_identity,
    )
    return attempt(job, RunDir(options.run_dir), console, as_json=options.json_events, command=typed(words))


def _plan(recipe: Recipe, options: argparse.Namespace, console: Console, words: Sequence[str]) -> int:
    with ending_at_once(words), loading():
        from trainer.planning import Asked, print_plan

    asked = Asked(
        cache_dir=options.cache_dir,
        processes=options.processes,
        memory_bytes=options.fit or options.memory,
        apply=options.fit is not None,
        probe_steps=options.probe,
        as_json=options.json,
    )
    return print_plan(recipe, asked, console)


def _parser(planning: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer plan" if planning else "python -m trainer",
        description="Say what a run would take." if planning else "Fine-tune SDXL; `plan` first says what it takes.",
    )
    parser.add_argument("config", type=Path, help="recipe, such as configs/train/demo.yaml")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings in place of the recipe's: lora.rank=8"
    )
    parser.add_argument("--base-dir", type=Path, help="base model: diffusers folder or .safetensors file")
    parser.add_argument(
        "--dataset-dir",
        type=Path,
        action="append",
        default=[],
        help="folder with data.parquet, or pictures with captions; may be given several times",
    )
    parser.add_argument(
        "--dataset-weight",
        type=float,
        action="append",
        default=[],
        help="how often its pictures are seen; one for each --dataset-dir, in their order (1)",
    )
    parser.add_argument("--init-weights", type=Path, help="weights file to start from, of the same base and method")
    parser.add_argument(
        "--cache-dir", type=Path, default=_default_cache(), help="where encoded pictures are kept (%(default)s)"
    )
    parser.add_argument(
        "--memory", type=_memory, metavar="8GB", help="refuse a run that takes more (what the GPU has, if any)"
    )
    if planning:
        parser.add_argument("--processes", type=int, default=1, help="processes the run will have (%(default)s)")
        parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        parser.add_argument(
            "--fit", type=_memory, metavar="8GB", help="change the recipe until it takes no more, and print it"
        )
        parser.add_argument("--probe", type=_steps, metavar="N", help="run N steps for the seconds they take")
    else:
        parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run; the same one resumes it")
        parser.add_argument("--base-identity", metavar="SHA256", help="refuse a base that is another")
        parser.add_argument(
            "--json-events", action="store_true", help="print one line of JSON for each event and nothing else"
        )
        parser.add_argument(
            "--no-cache", action="store_true", help="encode pictures and captions anew at each use (slow; same result)"
        )
    return parser


def _memory(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _steps(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps, such as 5")
    return int(text)


def _default_cache() -> Path:
    return Path(os.environ.get("PATINA_CACHE") or Path(os.environ.get("PATINA_HOME") or ".patina") / "cache")


def _explain(error: PatinaError, console: Console) -> None:
    lines = [f"error ({error.code}): {error.message}"]
    if isinstance(error, InvalidInput):
        named = [(dotted(one.pointer), one.message) for one in error.errors]
        lines += [f"  {name}: {message}" if name else f"  {message}" for name, message in named]
    console.print("\n".join([*lines, error.hint]), markup=False, highlight=False, soft_wrap=True)


def _tell(error: PatinaError) -> None:
    """The refusal as the run's only event, in the words of one that fails later."""
    message = f"{error.args[0]} {error.hint}" if isinstance(error, InvalidInput) else str(error)
    failed = Finished(at=time.time(), step=0, state="failed", code=error.code, message=message)
    sys.stdout.write(failed.model_dump_json() + "\n")


def _how_to_go_on(run_dir: RunDir, command: str) -> str:
    if any(run_dir.checkpoints.glob("step-*")):
        return f"interrupted; to go on from the last checkpoint: {command}"
    return f"interrupted before a checkpoint was saved: nothing trained is kept; to start again: {command}"


def _record(error: InvalidInput, folder: Path) -> None:
    """Leave the refusal as the run's outcome, for whoever follows the folder.

    Never over an outcome that is there, nor in a folder that a trainer works in: the refusal is then not that run's.
    """
    run_dir = RunDir(folder)
    if not folder.is_dir():
        return
    failed = Failed(
        step=0,
        code=error.code,
        message=str(error.args[0]),
        hint=error.hint,
        retryable=FAILURES[error.code].retryable,
    )
    # Where another trainer works or nothing can be written, the refusal on the terminal is all there is.
    with suppress(PatinaError), only_trainer(run_dir):
        end(run_dir, failed)
