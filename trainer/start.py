"""Starting from weights there are already, instead of from a fresh adapter or the base's own UNet.

What does not fit is refused in words, before anything is encoded. Knows nothing about where the file comes from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from contracts.adapter import Parent
from contracts.failures import FieldError, InvalidInput
from contracts.lora import UNET
from contracts.precision import not_taken
from contracts.train import TrainConfig
from sdxl.adapter import require_fit
from sdxl.dialects import PEFT_WEIGHTS, Adapter
from sdxl.files import BaseFiles, open_base
from sdxl.formats import check_full, components_of, full_tensors, load_adapter, named_weights, read_header, tail_hash
from sdxl.full import require_base
from sdxl.lora import adapted_modules, peft_name
from sdxl.networks import empty_network
from trainer.strengths import Strengths
from trainer.weights import Trainable

HINT = "Start from weights of the same base, method, layers, ranks and alphas, or from none."


def parent_of(path: Path, config: TrainConfig, base_dir: Path) -> Parent:
    """What the file is called and hashed as; it is made sure that the run can go on from it. Loads no network.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, or INVALID_INPUT: another method, other layers, ranks or alphas.
    """
    files = open_base(base_dir)
    header = read_header(path)
    if header is not None and header.method != config.method:
        raise _misfit(f"'{header.name}' was trained with method {header.method}, this run's is {config.method}")
    if config.method == "full":
        components = (UNET, *config.trained_text_encoders)
        if reason := not_taken(components_of(path), config.trained_text_encoders):
            raise _misfit(reason)
        networks = {component: empty_network(files, component) for component in components}
        check_full(path, {component: named_weights(component, network) for component, network in networks.items()})
    else:
        adapter = load_adapter(path)
        layers = _layers(files, config)
        if differing := _differences(adapter, layers, dora=config.lora.dora):
            raise _misfit(differing)
        require_fit(adapter.modules, {name: layer.shape for name, layer in layers.items()})
    return Parent(sha256=_hash(path), name=config.init_from or (header.name if header else None))


def _hash(path: Path) -> str:
    """Of a file's tensors; a PEFT folder with an adapter for each of several networks is all of their hashes'."""
    if not path.is_dir():
        return tail_hash(path)
    hashes = [tail_hash(file) for file in sorted(path.rglob(PEFT_WEIGHTS))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def refuse_other_base(path: Path, base_identity: str) -> None:
    """Refuse weights that say they belong to another base.

    Raises:
        PatinaError: BASE_MISMATCH.
    """
    require_base(read_header(path), base_identity)


@torch.no_grad()
def start_from(path: Path, model: Trainable) -> None:
    """Write the weights of a file that ``parent_of`` has looked at into what is trained.

    Layers that its header says act less, or more, than they were trained to are as they were in training again, or
    begin anew where their strength was 0: this run's own strengths are of what is trained.
    """
    if model.bank is None:
        live = {component: named_weights(component, getattr(model.base, component)) for component in model.peak_rates}
        for component, name, tensor in full_tensors(path):
            live[component][name].copy_(tensor)
        return
    state = model.state()
    adapter = load_adapter(path)
    for name, tensor in adapter.state.items():
        state[name].copy_(tensor)
    if adapter.header is not None:
        Strengths(model.bank.named_parameters(), adapter.header.strength_pattern).undo()


class _Layer(NamedTuple):
    """A layer that the run adapts."""

    rank: int
    alpha: float
    shape: tuple[int, ...]


def _layers(files: BaseFiles, config: TrainConfig) -> dict[str, _Layer]:
    """Those of the run by PEFT's names, from the networks' structure alone."""
    found = {}
    for component, how in config.lora.adaptations().items():
        for name, module in adapted_modules(empty_network(files, component), how).items():
            key = peft_name(component, name)
            plain = key.partition(".")[2]
            found[key] = _Layer(how.rank_of(plain), how.alpha_of(plain), tuple(module.weight.shape))
    return found


def _differences(adapter: Adapter, layers: Mapping[str, _Layer], *, dora: bool) -> str | None:
    """The first thing that keeps an adapter from being gone on with, in words."""
    theirs, ours = adapter.modules.keys(), layers.keys()
    if odd := sorted(theirs - ours):
        return f"{len(odd)} layers are adapted there and not here, such as {odd[0]}"
    if odd := sorted(ours - theirs):
        return f"{len(odd)} layers are adapted here and not there, such as {odd[0]}"
    for name, module in adapter.modules.items():
        rank, alpha, _ = layers[name]
        if module.rank != rank:
            return f"{name} has rank {module.rank} there, {rank} here"
        if abs(module.alpha - alpha) > 1e-5 * alpha:
            return f"{name} has alpha {module.alpha:g} there, {alpha:g} here"
        if (module.magnitude is not None) != dora:
            return "only one of the two is a DoRA"
    return None


def _misfit(reason: str) -> InvalidInput:
    message = "The weights to start from do not fit the run."
    return InvalidInput([FieldError(pointer="/init_from", message=reason)], message=message, hint=HINT)
