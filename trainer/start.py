"""Starting from weights there are already, instead of from a fresh adapter or the base's own UNet.

What does not fit is refused in words, before anything is encoded. Knows nothing about where the file comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from contracts.adapter import Parent
from contracts.failures import FieldError, InvalidInput
from contracts.train import TrainConfig
from sdxl.adapter import require_fit
from sdxl.dialects import Adapter
from sdxl.formats import check_full, full_tensors, load_adapter, read_header, tail_hash
from trainer.weights import Trainable

HINT = "Start from weights of the same base, method, layers, ranks and alphas, or from none."


def parent_of(path: Path, config: TrainConfig, base_identity: str) -> Parent:
    """What the file is called and hashed as, its method and base being the run's.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, BASE_MISMATCH, or INVALID_INPUT: it is of another method.
    """
    header = read_header(path)
    if header is not None and header.method != config.method:
        raise _misfit(f"'{header.name}' was trained with method {header.method}, this run's is {config.method}")
    if config.method == "lora":
        load_adapter(path, base_identity=base_identity)
    return Parent(sha256=tail_hash(path), name=config.init_from or (header.name if header else None))


@torch.no_grad()
def start_from(path: Path, model: Trainable, base_identity: str) -> None:
    """Write the file's weights into what is trained.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, BASE_MISMATCH, or INVALID_INPUT: other layers, ranks or alphas.
    """
    live = model.state()
    if model.bank is None:
        check_full(path, {name: tuple(t.shape) for name, t in live.items()}, base_identity=base_identity)
        for name, tensor in full_tensors(path):
            live[name].copy_(tensor)
        return
    adapter = load_adapter(path, base_identity=base_identity)
    state = adapter.state
    if differing := _differences(adapter, state, live, model.bank.alphas):
        raise _misfit(differing)
    require_fit(adapter.modules, model.bank.shapes)
    for name, tensor in state.items():
        live[name].copy_(tensor)


def _differences(
    adapter: Adapter, state: Mapping[str, torch.Tensor], live: Mapping[str, torch.Tensor], alphas: Mapping[str, float]
) -> str | None:
    """The first thing that keeps an adapter from being gone on with, in words."""
    theirs, ours = adapter.modules.keys(), alphas.keys()
    if odd := sorted(theirs - ours):
        return f"{len(odd)} layers are adapted there and not here, such as {odd[0]}"
    if odd := sorted(ours - theirs):
        return f"{len(odd)} layers are adapted here and not there, such as {odd[0]}"
    for name, module in adapter.modules.items():
        rank = len(live[f"{name}.lora_A.weight"])
        if module.rank != rank:
            return f"{name} has rank {module.rank} there, {rank} here"
        if abs(module.alpha - alphas[name]) > 1e-5 * alphas[name]:
            return f"{name} has alpha {module.alpha:g} there, {alphas[name]:g} here"
    if state.keys() != live.keys():
        return "only one of the two is a DoRA"
    return None


def _misfit(reason: str) -> InvalidInput:
    message = f"The weights to start from do not fit the run: {reason}."
    return InvalidInput([FieldError(pointer="/init_from", message=reason)], message=message, hint=HINT)
