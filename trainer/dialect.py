"""Which of its forms a run's LoRA is published in, known before anything is encoded, and who will not read all of it.

Knows nothing about how either form is written. docs/adr/0015 says why it is kohya's.
"""

from __future__ import annotations

from contracts.failures import FieldError, InvalidInput
from contracts.lora import PublishedDialect
from contracts.train import TrainConfig
from sdxl import files as base_files
from sdxl import original
from sdxl.files import BaseFiles
from sdxl.readers import misreadings
from trainer.recipe import HINT
from trainer.weights import Trainable


def published_dialect(config: TrainConfig, base: BaseFiles) -> PublishedDialect:
    """What the configuration says, else kohya's wherever that has names and an exact reader.

    Raises:
        InvalidInput: kohya's is asked for, and has no names for the base's layers.
    """
    layers = base_files.config(base, "unet").get("layers_per_block", original.LAYERS_PER_BLOCK)
    named = original.counts(layers)
    if config.output_dialect == "kohya" and not named:
        message = f"kohya's names count two layers a block, and the base's UNet has {layers}"
        raise InvalidInput([FieldError(pointer="/output_dialect", message=message)], hint=HINT)
    if config.output_dialect is not None:
        return config.output_dialect
    return "kohya" if named and not config.lora.dora else "diffusers"


def who_misreads(model: Trainable, dialect: PublishedDialect) -> list[str]:
    """What stock loaders will make of a LoRA's file that is not what was trained; nothing where each reads it whole."""
    if model.bank is None:
        return []
    about = " output_dialect chooses, and `python -m sdxl.formats convert` writes the other form at any time."
    dora = any(key.endswith(".lora_magnitude_vector") for key in model.state())
    found = misreadings(model.bank.alphas, dialect, dora=dora)
    return [f"the weights will be written in {dialect}'s form. {words}{about}" for words in found]
