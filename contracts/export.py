"""What a full fine-tune is written as when it is complete: the whole model, in the forms that other programs load.

Knows nothing about files.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from contracts.config import Frozen
from contracts.precision import BYTES, Precision

Layout = Literal["single-file", "diffusers"]


class ExportSettings(Frozen):
    """The whole model of a completed full fine-tune, beside its weights file."""

    layouts: Annotated[tuple[Layout, ...], Field(max_length=2)] = ("single-file", "diffusers")
    """single-file: one .safetensors in the original SDXL layout, for ComfyUI and from_single_file; diffusers: a folder
    for from_pretrained. Both are written to exports/ in the run directory; [] writes neither."""

    precision: Precision = "fp16"
    """Type of the numbers in them: half precision takes 7 GB a layout at full size; the weights file stays as it is."""

    def bytes_of(self, numbers: int) -> int:
        """What all layouts of a model of so many numbers take, but for headers, configs and tokenizers."""
        return len(self.layouts) * numbers * BYTES[self.precision]

    @field_validator("layouts")
    @classmethod
    def _each_once(cls, layouts: tuple[Layout, ...]) -> tuple[Layout, ...]:
        if len(set(layouts)) < len(layouts):
            raise ValueError("names a layout twice")
        return layouts
