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
from contracts.failures import FailureCode, PatinaError
from contracts.fitting import ALLOWANCE_BYTES, Fitting, fit, fits
from contracts.mixing import Mixture, summarise_mixture
from contracts.plan import Plan, make_plan
from contracts.rundir import RunDir
from contracts.train import TrainConfig, parse_config
from sdxl.base import describe
from trainer.attempt import attempt
from trainer.environment import device_name
from trainer.inputs import look_at
from trainer.paces import measured_seconds
from trainer.parts import Job
from trainer.recipe import Recipe, as_yaml

UNKNOWN_SECONDS = "unknown: probe"


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
    mixture = look_at(recipe, asked.cache_dir).data.mixture
    base = describe(recipe.base_dir, cache_dir=asked.cache_dir / "identities")
    planned = _planner(mixture, asked, base)
    config, limit = recipe.config, asked.memory_bytes or device_bytes()
    fitting = None
    if limit is not None and not fits(planned(config), limit):
        fitting = fit(config, limit, planned, config.data.resolution_px or base.native_px)
        if not (asked.apply and fitting.fits):
            if not asked.as_json:
                console.print(_table(planned(config)))
            raise does_not_fit(planned(config), limit, fitting)
        config = fitting.applied(config)
    if asked.probe_steps is not None:
        _probe(replace(recipe, config=config), asked)
    plan = planned(config)
    if asked.as_json:
        console.print(plan.model_dump_json(indent=2), markup=False, highlight=False, soft_wrap=True)
    elif asked.apply:
        _print_recipe(config, fitting, console)
    else:
        console.print(_table(plan))
    return 0


def does_not_fit(plan: Plan, memory_bytes: int, fitting: Fitting) -> PatinaError:
    """OUT_OF_MEMORY, with the changes that make the run fit in its hint."""
    changes = [
        f"{' '.join(f'{key}={_word(value)}' for key, value in change.overrides.items())} ({change.why}: "
        f"{size(change.memory_total)})"
        for change in fitting.changes
    ]
    told = "; ".join(changes) or "nothing that is known"
    hint = f"It fits with {told}." if fitting.fits else f"It would not fit even with {told}."
    return PatinaError(
        FailureCode.OUT_OF_MEMORY,
        f"The run's tensors take {size(plan.memory_total)}; of {size(memory_bytes)}, {size(ALLOWANCE_BYTES)} is left "
        "to what is not tensors.",
        hint,
    )


def device_bytes() -> int | None:
    """Memory of the GPU that would train; None without one, as a processor's memory is shared with everything."""
    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _planner(mixture: Mixture, asked: Asked, base: BaseDescription) -> Callable[[TrainConfig], Plan]:
    data = summarise_mixture(mixture)
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def planned(config: TrainConfig) -> Plan:
        return make_plan(
            config,
            base,
            data,
            processes=asked.processes,
            seconds_per_step=measured_seconds(asked.cache_dir, base.identity, device, asked.processes, config),
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


def _print_recipe(config: TrainConfig, fitting: Fitting | None, console: Console) -> None:
    lines = ["# It fits as it is."]
    if fitting is not None:
        changed = [(key, value, change.why) for change in fitting.changes for key, value in change.overrides.items()]
        lines = [f"# {key}={_word(value)}: {why}" for key, value, why in changed]
    console.print("\n".join([*lines, as_yaml(config).rstrip()]), markup=False, highlight=False, soft_wrap=True)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def _table(plan: Plan) -> Table:
    table = Table("what", "plan", title="The run")
    rows = {
        "images": f"{plan.images} ({plan.held_out_images} held out)",
        **({"held out by another data set": str(plan.kept_out_images)} if plan.kept_out_images else {}),
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
