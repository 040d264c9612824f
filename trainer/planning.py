"""`python -m trainer plan`: describe the base, count the data, print the plan, and say what would make it fit.

Knows nothing about how memory is estimated or what is changed to fit: contracts/plan.py and contracts/fitting.py do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from contracts.base import BaseDescription
from contracts.dataset import DatasetSummary
from contracts.failures import FailureCode, PatinaError
from contracts.fitting import Fitting, does_not_fit, word
from contracts.plan import Plan, fitted, make_plan
from contracts.rundir import RunDir
from contracts.sizes import size
from contracts.subject import summarise_run
from contracts.train import TrainConfig, parse_config
from sdxl.base import describe
from trainer.attempt import attempt
from trainer.environment import device_bytes, device_name
from trainer.inputs import look_at
from trainer.paces import measured_seconds
from trainer.parts import Job
from trainer.recipe import Recipe

UNKNOWN_SECONDS = "unknown: measure with --probe N"


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a plan."""

    cache_dir: Path
    processes: int
    memory_bytes: int | None
    """What the run must fit; None is what the device has."""
    apply: bool
    """Whether to change the recipe so that it fits, and print that instead."""
    probe_steps: int | None
    """Steps really run first, for the seconds they take."""
    as_json: bool


def print_plan(recipe: Recipe, asked: Asked, console: Console) -> int:
    """Print what ``recipe`` would take, or with ``apply`` the recipe that fits.

    Raises:
        PatinaError: the base or the data cannot be used, or OUT_OF_MEMORY with what to change.
    """
    # What a run would be refused for is said before the base is hashed and its shape traced.
    given = look_at(recipe, asked.cache_dir)
    data = summarise_run(given.subject, given.classes, recipe.config)
    base = describe(recipe.base_dir, cache_dir=asked.cache_dir / "identities")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    planned = _planner(data, asked, base, device)
    config, limit = recipe.config, asked.memory_bytes or device_bytes(device)
    plan, fitting = planned(config), None
    if limit is not None:
        fitting = fitted(config, base, data, limit)
    if limit is not None and fitting is not None:
        if not (asked.apply and fitting.fits):
            # The table answers what the run takes; whoever asked for a recipe that fits is told that there is none.
            if not (asked.as_json or asked.apply):
                console.print(_table(plan))
            raise does_not_fit(plan.memory_total, limit, fitting)
        config = fitting.applied(config)
    if asked.probe_steps is not None:
        _probe(replace(recipe, config=config), asked)
    plan = planned(config).model_copy(update={"fitting": fitting})
    if asked.as_json:
        console.print(plan.model_dump_json(indent=2), markup=False, highlight=False, soft_wrap=True)
    elif asked.apply:
        _print_recipe(replace(recipe, config=config), fitting, console)
    else:
        console.print(_table(plan))
    return 0


def _planner(
    data: DatasetSummary, asked: Asked, base: BaseDescription, device: torch.device
) -> Callable[[TrainConfig], Plan]:
    name = device_name(device)

    def planned(config: TrainConfig) -> Plan:
        return make_plan(
            config,
            base,
            data,
            processes=asked.processes,
            seconds_per_step=measured_seconds(asked.cache_dir, base.identity, name, asked.processes, config, data),
        )

    return planned


def _probe(recipe: Recipe, asked: Asked) -> None:
    """Run the first steps for real, in a folder that goes; what they took is remembered as any run's is.

    Raises:
        PatinaError: they could not be run.
    """
    short: dict[str, object] = {
        "steps": asked.probe_steps,
        "optimizer.warmup_steps": 0,
        "optimizer.warmup_share": None,
        "preview.prompts": [],
        "checkpoint.every_steps": None,
        "tracking.enabled": False,
        "measure_floor": False,
    }
    if recipe.config.method == "full":
        short["export.layouts"] = []
    config = parse_config(recipe.config.model_dump(mode="json"), short)
    with tempfile.TemporaryDirectory(prefix="patina-probe-") as folder:
        run_dir = RunDir(Path(folder) / "run")
        job = Job(replace(recipe, config=config), asked.cache_dir, use_cache=True)
        if attempt(job, run_dir, Console(stderr=True)) != 0:
            raise PatinaError(FailureCode.INTERNAL, "The probe ended without having taken its steps.")


def _print_recipe(recipe: Recipe, fitting: Fitting | None, console: Console) -> None:
    lines = ["# It fits as it is."]
    if fitting is not None:
        changed = [(key, value, change.why) for change in fitting.changes for key, value in change.overrides.items()]
        lines = [f"# {key}={word(value)}: {why}" for key, value, why in changed]
    console.print("\n".join([*lines, recipe.as_yaml().rstrip()]), markup=False, highlight=False, soft_wrap=True)


def _table(plan: Plan) -> Table:
    table = Table("what", "plan", title="The run")
    rows = {
        "images": f"{plan.images} ({plan.held_out_images} held out)",
        **({"held out by another data set": str(plan.kept_out_images)} if plan.kept_out_images else {}),
        **({"class pictures": str(plan.class_images)} if plan.class_images else {}),
        "buckets": ", ".join(f"{bucket}: {count:g}" for bucket, count in plan.buckets.items()),
        "images smaller than their bucket": f"{plan.upscaled_images:g} ({plan.much_upscaled_images:g} by too much)",
        "steps": f"{plan.steps} of {plan.global_batch} images ({plan.epochs:g} epochs)",
        "trained parameters": f"{plan.trainable_parameters:,}",
        **{f"memory: {name}": size(count) for name, count in plan.memory.model_dump().items()},
        "memory at the peak": size(plan.memory_total),
        "disk": size(plan.disk_bytes),
        "seconds a step": UNKNOWN_SECONDS if plan.seconds_per_step is None else f"{plan.seconds_per_step:.3g}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
