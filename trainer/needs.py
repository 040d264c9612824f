"""What a configuration needs to be installed where it is trained; asked before torch is imported.

Knows nothing about what the libraries are used for.
"""

from __future__ import annotations

from importlib.util import find_spec

from contracts.failures import FieldError, InvalidInput
from contracts.optimizers import BITSANDBYTES_KINDS
from contracts.train import TrainConfig


def refuse_missing_libraries(config: TrainConfig) -> None:
    """Make sure that every library the settings ask for is here.

    Raises:
        InvalidInput: naming every setting that asks for one that is not.
    """
    asking = []
    if config.optimizer.kind in BITSANDBYTES_KINDS:
        asking.append(FieldError(pointer="/optimizer/kind", message=f"{config.optimizer.kind} {_WORDS}"))
    if config.quantize is not None:
        asking.append(FieldError(pointer="/quantize", message=f"{config.quantize} {_WORDS}"))
    if asking and find_spec("bitsandbytes") is None:
        message = "The recipe asks for a library that is not there."
        raise InvalidInput(asking, message, "Install it with `pip install bitsandbytes`, or choose a kind without it.")


_WORDS = "needs the library bitsandbytes, which is not installed here"
