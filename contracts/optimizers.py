"""Which optimisers and schedules there are: their settings, the defaults of each kind, and the memory each takes.

Knows nothing about torch, nor about what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contracts.config import Frozen
from contracts.mistakes import Contradiction, Contradictions

OptimizerKind = Literal["adamw", "adamw8bit", "paged-adamw8bit", "lion8bit", "adafactor"]
Schedule = Literal["constant", "linear", "cosine", "cosine-with-restarts", "polynomial"]

_BLOCK = 256
"""Elements that share one fp32 scale in an 8-bit state (Dettmers et al. 2022, arXiv:2110.02861; bitsandbytes)."""

STATE_BYTES: Mapping[OptimizerKind, float] = MappingProxyType(
    {
        "adamw": 2 * 4,
        "adamw8bit": 2 * (1 + 4 / _BLOCK),
        # As much, but the device may page it out to the host's memory while a step needs the room.
        "paged-adamw8bit": 2 * (1 + 4 / _BLOCK),
        "lion8bit": 1 + 4 / _BLOCK,
        # Its state is not a matter of parameters but of their shapes: see ADAFACTOR_BYTES.
        "adafactor": 0,
    }
)
"""Bytes of state for each trained parameter."""

ADAFACTOR_BYTES = 4
"""Adafactor keeps so much for each row and each column of a trained matrix (a kernel counts as [out, in x k x k]), and
for each element of what is no matrix."""

BITSANDBYTES_KINDS = frozenset({"adamw8bit", "paged-adamw8bit", "lion8bit"})

_ADAMW: Mapping[str, Any] = MappingProxyType(
    # PyTorch's and diffusers' own defaults; 1e-4 is that of diffusers' SDXL LoRA training.
    {"learning_rate": 1e-4, "weight_decay": 0.01, "betas": (0.9, 0.999), "epsilon": 1e-8, "max_grad_norm": 1.0}
)
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "adamw": _ADAMW,
        "adamw8bit": _ADAMW,
        "paged-adamw8bit": _ADAMW,
        # Chen et al. 2023 (arXiv:2302.06675), section 5: a rate 3 to 10 times smaller than AdamW's, a decay as many
        # times larger, and betas of 0.9 and 0.99. Five times here.
        "lion8bit": {**_ADAMW, "learning_rate": 2e-5, "weight_decay": 0.05, "betas": (0.9, 0.99), "epsilon": None},
        # Shazeer and Stern 2018 (arXiv:1804.04235): no momentum, no decay, and updates clipped to an RMS of 1 one by
        # one, beside which a global norm has no work.
        "adafactor": {**_ADAMW, "weight_decay": 0.0, "betas": None, "epsilon": None, "max_grad_norm": None},
    }
)
"""What a setting that is left out is, by kind."""


class OptimizerSettings(Frozen):
    """The optimiser and its learning-rate schedule, stepped once per optimiser step."""

    kind: OptimizerKind = "adamw"
    """The optimiser. The 8-bit ones keep their state in a quarter of the memory, the paged one lets it leave the GPU,
    adafactor keeps next to none."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate; left out, lion8bit has 2e-5."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay; left out, lion8bit has 0.05 and adafactor none."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = (0.9, 0.999)
    """Decay rates of the two moment estimates; left out, lion8bit has 0.9 and 0.99. Adafactor has none."""

    epsilon: Annotated[float, Field(gt=0)] | None = 1e-8
    """Added to AdamW's denominator; the other kinds have none."""

    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null turns clipping off, as adafactor has it when left out."""

    schedule: Schedule = "cosine"
    """Shape of the learning rate after warm-up; all but constant end at zero."""

    cycles: Annotated[int, Field(ge=2, le=1000)] | None = None
    """How often cosine-with-restarts falls from the peak (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

    power: Annotated[float, Field(gt=0, le=10)] | None = None
    """Of polynomial: the rate falls as the share of steps left to this power."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from zero."""

    warmup_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same as a share of all steps, such as 0.05; instead of warmup_steps."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_kind(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {**DEFAULTS.get(str(values.get("kind", "adamw")), {}), **values}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        broken = []
        for name in ("betas", "epsilon"):
            given, has = getattr(self, name) is not None, DEFAULTS[self.kind][name] is not None
            if given != has:
                message = f"{self.kind} has none: leave it out" if given else f"{self.kind} needs it"
                broken.append(Contradiction(f"/{name}", message, ("/kind",)))
        for name, schedule in (("cycles", "cosine-with-restarts"), ("power", "polynomial")):
            given = getattr(self, name) is not None
            if given and self.schedule != schedule:
                message = f"belongs to the schedule {schedule}, not to {self.schedule}"
                broken.append(Contradiction(f"/{name}", message, ("/schedule",)))
            if not given and self.schedule == schedule:
                broken.append(Contradiction(f"/{name}", f"is needed by the schedule {schedule}", ("/schedule",)))
        if self.warmup_steps and self.warmup_share is not None:
            message = "says the same thing as warmup_steps: give one of them"
            broken.append(Contradiction("/warmup_share", message, ("/warmup_steps",)))
        if broken:
            raise Contradictions(broken)
        return self

    def warmup(self, steps: int) -> int:
        """Steps of warm-up in a run of ``steps``; a share is rounded to whole steps."""
        return self.warmup_steps if self.warmup_share is None else round(self.warmup_share * steps)
