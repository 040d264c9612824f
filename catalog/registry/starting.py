"""Which registered weights a run starts from: the caller's own, of the run's base, made as the run is to go on.

What only the file can tell (every layer's rank) the trainer checks. Knows nothing about tensors.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from catalog.bases.models import Base
from catalog.registry import service
from contracts.failures import FailureCode, PatinaError
from contracts.train import TrainConfig


def starting_point(session: Session, owner: str, base: Base, config: TrainConfig) -> str:
    """``config.init_from`` as name@version, so that it means the same weights when the run begins.

    Raises:
        PatinaError: NOT_FOUND: there are no such weights; BASE_MISMATCH; CONFLICT: they were made in another way.
    """
    assert config.init_from is not None
    weights = service.resolve(session, owner, config.init_from)
    service.check_base(weights, base)
    pinned = f"{weights.name}@{weights.version}"
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
    return pinned


def _made_how(config: TrainConfig) -> dict[str, object]:
    """What a header says of how weights were made, as this configuration would make them."""
    if config.method == "full":
        return {"method": "full"}
    return {"method": "lora", "targets": config.lora.targets, "rank": config.lora.rank, "alpha": config.lora.alpha}
