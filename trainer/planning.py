"""`python -m trainer plan`: describe the base, count the data, and print the plan.

Knows nothing about how memory is estimated: contracts/plan.py does.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from contracts.failures import InvalidInput
from contracts.mixing import summarise_mixture
from contracts.objective import misfits
from contracts.plan import Plan, make_plan
from sdxl.base import describe
from trainer.images import IdentityMemory
from trainer.mixed import read_run_data
from trainer.recipe import HINT, Recipe

UNKNOWN_SECONDS = "unknown: probe"


def print_plan(recipe: Recipe, cache_dir: Path, processes: int, *, as_json: bool, console: Console) -> int:
    """Print what ``recipe`` would take, as a table or as one JSON document.

    Raises:
        PatinaError: the base or the data cannot be used.
    """
    base = describe(recipe.base_dir, cache_dir=cache_dir / "identities")
    if errors := misfits(recipe.config.loss, base.prediction_type):
        raise InvalidInput(errors, message="The recipe does not fit the base.", hint=HINT)
    memory = IdentityMemory(cache_dir / "pictures.jsonl")
    data = read_run_data(recipe.datasets, memory, recipe.config.data.concept_weights)
    plan = make_plan(recipe.config, base, summarise_mixture(data.mixture), processes=processes)
    if as_json:
        console.print(plan.model_dump_json(indent=2), markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(_table(plan))
    return 0


def _table(plan: Plan) -> Table:
    table = Table("what", "plan", title="The run")
    rows = {
        "images": f"{plan.images} ({plan.held_out_images} held out)",
        **({"held out by another data set": str(plan.kept_out_images)} if plan.kept_out_images else {}),
        "buckets": ", ".join(f"{bucket}: {count:g}" for bucket, count in plan.buckets.items()),
        "images smaller than their bucket": f"{plan.upscaled_images:g} ({plan.much_upscaled_images:g} by too much)",
        "steps": f"{plan.steps} of {plan.global_batch} images ({plan.epochs:g} epochs)",
        "trained parameters": f"{plan.trainable_parameters:,}",
        **{f"memory: {name}": _size(count) for name, count in plan.memory.model_dump().items()},
        "memory in all": _size(plan.memory_total),
        "disk": _size(plan.disk_bytes),
        "seconds a step": UNKNOWN_SECONDS if plan.seconds_per_step is None else f"{plan.seconds_per_step:.3g}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
