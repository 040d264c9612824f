"""Which registered weights a run starts from: the caller's own, of the run's base, made as the run is to go on.

What only the file can tell (every layer's rank) the trainer checks; so it does of weights whose run was removed which
text encoders they have. Knows nothing about tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from catalog.bases.models import Base
from catalog.registry import service
from catalog.registry.models import Weights
from catalog.runs import service as runs
from catalog.runs.models import Run
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.lora import TEXT_ENCODERS
from contracts.precision import not_taken
from contracts.train import TrainConfig


def starting_point(session: Session, owner: str, base: Base, config: TrainConfig) -> str:
    """``config.init_from`` as name@version, so that it means the same weights when the run begins.

    Raises:
        PatinaError: NOT_FOUND: there are no such weights; BASE_MISMATCH; CONFLICT: they were made in another way.
        InvalidInput: they have text encoders of their own, which the run does not train.
    """
    assert config.init_from is not None
    weights = service.resolve(session, owner, config.init_from)
    service.check_base(weights, base)
    pinned = _pinned(weights)
    differing = {
        name: (weights.header[name], wanted)
        for name, wanted in _made_how(config).items()
        if weights.header.get(name) not in (None, wanted)
    }
    if differing:
        words = "; ".join(f"{name} was {there}, is {here}" for name, (there, here) in differing.items())
        raise PatinaError(
            FailureCode.CONFLICT,
            f"The run cannot start from '{pinned}': {words}.",
            "Start from weights of the same method, layers, rank and alpha, or set these as they were.",
        )
    if config.method == "full" and (
        reason := not_taken(_text_encoders(session, owner, weights), config.trained_text_encoders)
    ):
        raise InvalidInput([FieldError(pointer="/init_from", message=f"'{pinned}' does not fit the run: {reason}")])
    return pinned


def starting_from(session: Session, owner: str, weights: Sequence[Weights]) -> list[Run]:
    """An owner's runs that have not ended and start from any of these weights: each attempt needs their file."""
    pinned = {_pinned(one) for one in weights}
    return [run for run in runs.unfinished(session, owner) if run.config.get("init_from") in pinned]


def _pinned(weights: Weights) -> str:
    return f"{weights.name}@{weights.version}"


def _text_encoders(session: Session, owner: str, weights: Weights) -> list[str]:
    """Those that full fine-tuned weights have of their own, as their run's configuration says."""
    if weights.run_id is None:
        return []
    full = runs.read(session, owner, weights.run_id).config.get("full") or {}
    return [name for name in TEXT_ENCODERS if full.get(name) is not None]


def _made_how(config: TrainConfig) -> dict[str, object]:
    """What a header says of how weights were made, as this configuration would make them."""
    if config.method == "full":
        return {"method": "full"}
    return {"method": "lora", "targets": config.lora.targets, "rank": config.lora.rank, "alpha": config.lora.alpha}
