"""The inputs of a run, looked at before anything costly is done: base, data, weights to start from.

What is wrong with any of them is said together. Loads no network and hashes no base.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from contracts.adapter import Parent
from contracts.lora import PublishedDialect
from contracts.mixing import Mixture
from contracts.subject import set_apart
from sdxl.base import Base, load_base
from trainer.dialect import published_dialect
from trainer.images import IdentityMemory
from trainer.mixed import RunData, read_run_data
from trainer.recipe import Recipe, refuse_misfits
from trainer.refusals import Refusals
from trainer.start import parent_of
from trainer.weights import check_patterns


@dataclass(frozen=True)
class Inputs:
    """What a run is given, each fit to be used."""

    base: Base
    """Its description only; no network is loaded."""
    data: RunData
    """All of it."""
    subject: Mixture
    """What is trained on and measured, but for class pictures."""
    classes: Mixture
    """The class pictures the data set has."""
    parent: Parent | None
    """What training starts from."""
    dialect: PublishedDialect
    """What a LoRA is published in."""


def look_at(recipe: Recipe, cache_dir: Path) -> Inputs:
    """Read what can be read in seconds.

    Args:
        cache_dir: where the identities of pictures seen before are kept.

    Raises:
        PatinaError: an input cannot be used, or does not fit the recipe; of several all are named.
    """
    config, refused, parent = recipe.config, Refusals(), None
    with refused.asking():
        base = load_base(recipe.base_dir, dtype=torch.float32, components=frozenset())
        with refused.asking():
            refuse_misfits(config, base.denoising)
        dialect = published_dialect(config, base.files)
    with refused.asking():
        check_patterns(recipe.base_dir, config)
    with refused.asking():
        memory = IdentityMemory(cache_dir / "pictures.jsonl")
        data = read_run_data(recipe.datasets, memory, config.data.concept_weights)
        subject, classes = set_apart(data.mixture, config.prior)
    with refused.asking():
        if recipe.init_weights is not None:
            parent = parent_of(recipe.init_weights, config, recipe.base_dir)
    refused.say()
    return Inputs(base, data, subject, classes, parent, dialect)
