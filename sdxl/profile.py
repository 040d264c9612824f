"""What planning needs to know of a base: how many parameters, which layers take adapters, and what steps keep alive.

It depends on the base's shape alone. Shapes that people use are in bases/profiles, traced already; any other one is
traced when it is met, which takes no weights and no memory. Knows nothing about devices.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from contracts.base import AUTOCAST, DORA, DROPOUT, FULL, WAYS, BaseProfile, StepFootprints, TargetSet
from contracts.config import digest
from contracts.footprint import Footprint
from contracts.lora import TEXT_ENCODERS, UNET, Adaptation
from sdxl import files as base_files
from sdxl.files import BaseFiles
from sdxl.full import trained_weights
from sdxl.lora import adapted_modules, attach_all, target_modules
from sdxl.networks import empty_network, text_features, unet_from_config, vae_factor
from sdxl.quantized import quantizable
from sdxl.trace import (
    COMPUTE,
    IMAGES,
    RANK,
    trace_autocast,
    trace_sampling,
    trace_text,
    trace_training,
    trace_vae,
)

TARGET_SETS: tuple[TargetSet, ...] = get_args(TargetSet)
ADAPTED = tuple(itertools.product(TARGET_SETS, WAYS))
"""What adapters a step of the UNet can train: each is traced with and without checkpointing, most of a trace's time."""
VERSION = 4
"""Of what is traced; a change of the layers, or of what a step keeps, makes what was traced before worthless."""
KNOWN = Path(__file__).parents[1] / "bases" / "profiles"
"""Profiles by the digest of the shape they are of, and the name of a base that has it."""


def profile_of(files: BaseFiles, cache_dir: Path | None = None) -> BaseProfile:
    """The stored profile of the base's shape, else the one that was traced before, else a trace.

    Args:
        cache_dir: where traced profiles are kept; None keeps none.
    """
    if (known := known_profile(files, cache_dir)) is not None:
        return known
    profile = trace_profile(files)
    if cache_dir is not None:
        traced = _traced(cache_dir, _shape(files))
        traced.parent.mkdir(parents=True, exist_ok=True)
        temporary = traced.with_name(f".tmp-{uuid.uuid4().hex}-{traced.name}")
        temporary.write_text(profile.model_dump_json())
        temporary.rename(traced)
    return profile


def known_profile(files: BaseFiles, cache_dir: Path | None = None) -> BaseProfile | None:
    """The profile of the base's shape where it is stored or was traced before."""
    shape = _shape(files)
    for stored in [*KNOWN.glob(f"*.{shape}.json"), *([_traced(cache_dir, shape)] if cache_dir else [])]:
        if stored.is_file():
            return BaseProfile.model_validate_json(stored.read_text())
    return None


def _shape(files: BaseFiles) -> str:
    return shape_digest({component: base_files.shapes(files, component) for component in base_files.COMPONENTS})


def _traced(cache_dir: Path, shape: str) -> Path:
    return cache_dir / f"profile-{VERSION}-{shape}.json"


def shape_digest(shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    """Twelve hex characters that stand for the shapes of a base's tensors, whatever the spelling of its encoders'."""
    named = sorted([part, key, list(shape)] for part in ("unet", "vae") for key, shape in shapes[part].items())
    encoders = sum(
        math.prod(shape)
        for part in ("text_encoder", "text_encoder_2")
        for key, shape in shapes[part].items()
        if not key.endswith("position_ids")
    )
    return digest([named, encoders])[:12]


def trace_profile(files: BaseFiles) -> BaseProfile:
    """Count and trace; three to four processor minutes at full size. Reads configs alone."""
    counts = {name: _parameters(empty_network(files, name)) for name in base_files.COMPONENTS}
    config = base_files.config(files, "unet")
    unet = _unet(files)
    packed = [unet.get_submodule(name).weight for name in sorted(quantizable(unet))]
    encoding, decoding = trace_vae(_half(empty_network(files, "vae")).eval(), vae_factor(files))
    return BaseProfile(
        unet_parameters=counts["unet"],
        unet_largest=max(parameter.numel() for parameter in unet.parameters()),
        unet_rows_and_columns=_rows_and_columns(unet.parameters()),
        packed_weights=sum(weight.numel() for weight in packed),
        packed_rows=sum(len(weight) for weight in packed),
        packed_largest=max(weight.numel() for weight in packed),
        text_encoder_parameters=counts["text_encoder"] + counts["text_encoder_2"],
        text_trained={name: sum(p.numel() for p in _text_weights(files, name)) for name in TEXT_ENCODERS},
        text_largest={name: max(p.numel() for p in _text_weights(files, name)) for name in TEXT_ENCODERS},
        text_rows_and_columns={name: _rows_and_columns(_text_weights(files, name)) for name in TEXT_ENCODERS},
        text_features=text_features(files),
        vae_parameters=counts["vae"],
        modules=_modules(unet),
        text_modules={name: _text_modules(files, name) for name in TEXT_ENCODERS},
        text_steps={f"{name}{way}": _text_step(files, name, way) for name in TEXT_ENCODERS for way in WAYS},
        full_text_steps={name: _full_text_step(files, name) for name in TEXT_ENCODERS},
        steps=_steps(files, config, unet),
        sampling=trace_sampling(unet, config),
        vae_encoding=encoding,
        vae_decoding=decoding,
    )


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _rows_and_columns(weights: Iterable[nn.Parameter]) -> int:
    return sum(len(weight) + (weight[0].numel() if weight.ndim > 1 else 0) for weight in weights)


def _modules(unet: nn.Module) -> dict[TargetSet, dict[str, tuple[int, int]]]:
    modules: dict[TargetSet, dict[str, tuple[int, int]]] = {}
    seen: set[str] = set()
    for targets in TARGET_SETS:
        added = {name: layer for name, layer in target_modules(unet, targets).items() if name not in seen}
        modules[targets] = {name: (layer.weight[0].numel(), len(layer.weight)) for name, layer in added.items()}
        seen |= added.keys()
    return modules


def _steps(files: BaseFiles, config: dict[str, Any], unet: Any) -> dict[str, StepFootprints]:
    """Of each way of training adapters on each target set, and of the whole UNet; leaves ``unet`` as it was."""
    steps = {}
    for targets, way in ADAPTED:
        bank = attach_all({UNET: unet}, {UNET: _adaptation(way, targets)}, seed=0)
        bank.dropout_keys(range(IMAGES))
        steps[f"{targets}{way}"] = _both(unet, lambda: trace_training(unet, config))
        bank.detach()
    whole = _unet(files).requires_grad_(True)
    steps[FULL] = _both(whole, lambda: trace_training(whole, config))
    steps[f"{FULL}{AUTOCAST}"] = StepFootprints(
        plain=trace_autocast(lambda: _fake_unet(config, checkpointing=False), config),
        checkpointed=trace_autocast(lambda: _fake_unet(config, checkpointing=True), config),
    )
    return steps


def _both(unet: Any, trace: Callable[[], Footprint]) -> StepFootprints:
    plain = trace()
    unet.enable_gradient_checkpointing()
    checkpointed = trace()
    unet.disable_gradient_checkpointing()
    return StepFootprints(plain=plain, checkpointed=checkpointed)


def _adaptation(way: str, targets: TargetSet | None = None) -> Adaptation:
    dropout = 0.5 if DROPOUT in way else 0.0
    return Adaptation(rank=RANK, alpha=RANK, targets=targets, dora=DORA in way, dropout=dropout)


def _text_modules(files: BaseFiles, name: str) -> dict[str, tuple[int, int]]:
    layers = adapted_modules(empty_network(files, name), _adaptation(""))
    return {layer: (module.weight[0].numel(), len(module.weight)) for layer, module in layers.items()}


def _text_step(files: BaseFiles, name: str, way: str) -> Footprint:
    encoder = _half(empty_network(files, name)).requires_grad_(False).eval()
    bank = attach_all({name: encoder}, {name: _adaptation(way)}, seed=0)
    bank.dropout_keys(range(IMAGES), TEXT_ENCODERS)
    return trace_text(encoder)


def _full_text_step(files: BaseFiles, name: str) -> Footprint:
    encoder = _half(empty_network(files, name)).requires_grad_(False).eval()
    for weight in trained_weights(name, encoder).values():
        weight.requires_grad_(True)
    return trace_text(encoder)


def _text_weights(files: BaseFiles, name: str) -> list[nn.Parameter]:
    """What training a text encoder whole changes of it."""
    return list(trained_weights(name, empty_network(files, name)).values())


def _unet(files: BaseFiles) -> Any:
    """On the meta device, frozen and in eval mode as a loaded one is."""
    return _half(empty_network(files, "unet")).requires_grad_(False).eval()


def _fake_unet(config: dict[str, Any], *, checkpointing: bool) -> Any:
    """In fp32, trained as a whole, on the tensor mode in force."""
    unet = unet_from_config(config).requires_grad_(True).eval()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def _half(network: Any) -> Any:
    # The plain method: diffusers' own warns of rounding, which shapes do not know.
    return nn.Module.to(network, COMPUTE)


def main() -> None:
    """Trace the shapes of bases anew and store them: python -m sdxl.profile NAME=FOLDER_WITH_CONFIGS ..."""
    for argument in sys.argv[1:]:
        name, _, folder = argument.partition("=")
        path = Path(folder)
        files = BaseFiles(path, path, path, single_file=False)
        networks = {component: empty_network(files, component).state_dict() for component in base_files.COMPONENTS}
        shapes = {part: {key: tuple(t.shape) for key, t in state.items()} for part, state in networks.items()}
        for old in KNOWN.glob(f"{name}.*.json"):
            old.unlink()
        profile = trace_profile(files).model_dump(mode="json", by_alias=True)
        (KNOWN / f"{name}.{shape_digest(shapes)}.json").write_text(json.dumps(profile, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
