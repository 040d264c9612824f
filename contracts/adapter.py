"""The header of a weights file: string metadata that says what the weights are and what they belong to.

ModelSpec 1.0.1 and kohya's ``ss_*`` keys for other tools, ``patina.*`` for ours. Headers of files from
elsewhere are untrusted text: read only through ``AdapterHeader.from_metadata``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import Field

from contracts.base import Denoising, PredictionType, TargetSet
from contracts.config import Frozen
from contracts.failures import FieldError, InvalidInput
from contracts.lora import MOST_PATTERNS, LayerGlob, Strength
from contracts.mixing import Share


class Parent(Frozen):
    """Weights that training started from."""

    sha256: str
    """Of the file's tensors (AutoV3), which stays when its header is rewritten."""
    name: str | None
    """What it is registered under, name@version; by hand, the name in its header, if it has one of ours."""


class AdapterHeader(Frozen):
    """What Patina writes into every weights file."""

    name: str
    method: Literal["lora", "full"]
    base_identity: str
    config_digest: str
    dataset_version: str
    """Digest of the version it was trained on, or over several and their weights (contracts/mixing.py)."""
    datasets: tuple[Share, ...] = ()
    """Those several; a file of one version with weight 1 is written without the list."""
    trigger_word: str | None
    rank: int | None
    alpha: float | None
    targets: TargetSet | None
    strength_pattern: dict[LayerGlob, Strength] = Field(default_factory=dict, max_length=MOST_PATTERNS)
    """How strongly layers act here, of what was trained, by globs; a file whose layers all act fully has no list."""
    resolution_px: int
    prediction_type: PredictionType
    zero_terminal_snr: bool | None = None
    """Trained on a noise schedule that ends in pure noise: sample on such a one, with trailing steps. null in files of
    before this was said: as the base's."""
    parent: Parent | None = None
    """What it was started from; a file that started from the base is written without."""
    ema_decay: float | None = None
    """Of the moving average these weights are; null where they are the last step's own."""
    steps: int
    created: str
    """ISO 8601, UTC."""

    def denoising(self, base: Denoising) -> Denoising:
        """How a UNet with these weights is to be sampled from, its base denoising as ``base`` says."""
        unsaid = self.zero_terminal_snr is None
        return Denoising(self.prediction_type, base.from_pure_noise if unsaid else bool(self.zero_terminal_snr))

    def to_metadata(self) -> dict[str, str]:
        """The header as safetensors metadata; every value is a string."""
        suffix = "/lora" if self.method == "lora" else ""
        metadata = {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"stable-diffusion-xl-v1-base{suffix}",
            "modelspec.implementation": "https://github.com/huggingface/diffusers",
            "modelspec.title": self.name,
            "modelspec.resolution": f"{self.resolution_px}x{self.resolution_px}",
            "modelspec.date": self.created,
            "modelspec.prediction_type": "v" if self.prediction_type == "v_prediction" else "epsilon",
            "ss_v2": "False",
            "ss_zero_terminal_snr": str(bool(self.zero_terminal_snr)),
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_output_name": self.name,
            "ss_steps": str(self.steps),
            "patina.header": self.model_dump_json(exclude=self._unsaid()),
        }
        if self.trigger_word:
            metadata["modelspec.trigger_phrase"] = self.trigger_word
        if self.method == "lora":
            metadata |= {
                "ss_network_module": "networks.lora",
                "ss_network_dim": str(self.rank),
                "ss_network_alpha": str(self.alpha),
                "ss_network_args": "{}",
            }
        return metadata

    def _unsaid(self) -> set[str]:
        return {name for name in ("datasets", "parent", "strength_pattern") if not getattr(self, name)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> Self | None:
        """Read our own header back; None when the file is not ours or its header is not readable."""
        text = (metadata or {}).get("patina.header")
        if text is None:
            return None
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None


def shared_denoising(base: Denoising, headers: Iterable[AdapterHeader]) -> Denoising:
    """How weights that act together are to be sampled from; without any, as the base.

    Raises:
        InvalidInput: they were trained for different ones, of which no picture is made.
    """
    ways = [(header.name, header.denoising(base)) for header in headers]
    if len({way for _, way in ways}) > 1:
        told = "; ".join(f"'{name}' predicts {way}" for name, way in ways)
        message = f"Weights that were trained to predict different things cannot draw one picture: {told}."
        errors = [FieldError(pointer="/weights", message="were trained to predict different things")]
        raise InvalidInput(errors, message, "Use those that agree, or train the others again as these were.")
    return ways[0][1] if ways else base
