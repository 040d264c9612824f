"""The classes of diffusers and transformers that are used here; and bitsandbytes, loaded only when it is asked for.

Both libraries load bitsandbytes wherever it is installed, for loaders that Patina does not use, which is a fifth of
the time that a trainer takes to start. Nothing else imports them, so that no entry point can forget.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from contracts.loading import loading

__all__ = [
    "Adafactor",
    "AutoencoderKL",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "UNet2DConditionModel",
    "bitsandbytes",
]


@contextmanager
def _unseen(name: str) -> Iterator[None]:
    """Meanwhile, a module that is not loaded yet looks as if it were not installed."""
    modules: dict[str, Any] = sys.modules
    loaded = name in modules
    if not loaded:
        modules[name] = None
    try:
        yield
    finally:
        if not loaded:
            del modules[name]


with loading(), _unseen("bitsandbytes"):
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from transformers.optimization import Adafactor


@cache
def bitsandbytes(part: str) -> Any:
    """A part of the library, ``optim`` or ``functional``; whoever configures a run has made sure that it is here.

    Loaded once: quantised layers ask for it in every pass, and settling what is logged takes a tenth of a millisecond.
    """
    # It recommends a further library when it is loaded.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return importlib.import_module(f"bitsandbytes.{part}")
