"""What planning needs to know of a base: how many parameters, which layers take adapters, and what steps keep alive.

It depends on the base's shape alone. Shapes that people use are in bases/profiles, traced already; any other one is
traced when it is met, which takes no weights and no memory. Knows nothing about devices.
"""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from contracts.base import BaseProfile, StepFootprints, TargetSet
from contracts.config import digest
from contracts.footprint import Footprint
from contracts.lora import TEXT_ENCODERS, Adaptation
from sdxl import files as base_files
from sdxl.files import BaseFiles
from sdxl.full import trained_weights
from sdxl.lora import adapted_modules, attach, attach_all, target_modules
from sdxl.networks import empty_network, vae_factor
from sdxl.trace import COMPUTE, RANK, TOKENS, trace_sampling, trace_text, trace_training, trace_vae

TARGET_SETS: tuple[TargetSet, ...] = get_args(TargetSet)
TRACED_TEXT = Adaptation(rank=RANK, alpha=RANK)
"""Of a text encoder."""
VERSION = 3
"""Of what is traced; a change of the layers, or of what a step keeps, makes what was traced before worthless."""
KNOWN = Path(__file__).parents[1] / "bases" / "profiles"
"""Profiles by the digest of the shape they are of, and the name of a base that has it."""


def profile_of(files: BaseFiles, cache_dir: Path | None = None) -> BaseProfile:
    """The stored profile of the base's shape, else the one that was traced before, else a trace.

    Args:
        cache_dir: where traced profiles are kept; None keeps none.
    """
    shapes = {component: base_files.shapes(files, component) for component in base_files.COMPONENTS}
    shape = shape_digest(shapes)
    traced = None if cache_dir is None else cache_dir / f"profile-{VERSION}-{shape}.json"
    for stored in [*KNOWN.glob(f"*.{shape}.json"), *([traced] if traced is not None and traced.is_file() else [])]:
        return BaseProfile.model_validate_json(stored.read_text())
    profile = trace_profile(files)
    if traced is not None:
        traced.parent.mkdir(parents=True, exist_ok=True)
        temporary = traced.with_name(f".tmp-{uuid.uuid4().hex}-{traced.name}")
        temporary.write_text(profile.model_dump_json())
        temporary.rename(traced)
    return profile


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
    """Count and trace; half a minute at full size. Reads configs alone."""
    counts = {name: _parameters(empty_network(files, name)) for name in base_files.COMPONENTS}
    config = base_files.config(files, "unet")
    unet = _unet(files)
    encoding, decoding = trace_vae(_half(empty_network(files, "vae")).eval(), vae_factor(files))
    return BaseProfile(
        unet_parameters=counts["unet"],
        unet_linear_weights=sum(m.weight.numel() for m in unet.modules() if isinstance(m, nn.Linear)),
        unet_rows_and_columns=_rows_and_columns(unet.parameters()),
        text_encoder_parameters=counts["text_encoder"] + counts["text_encoder_2"],
        text_trained={name: sum(p.numel() for p in _text_weights(files, name)) for name in TEXT_ENCODERS},
        text_largest={name: max(p.numel() for p in _text_weights(files, name)) for name in TEXT_ENCODERS},
        text_rows_and_columns={name: _rows_and_columns(_text_weights(files, name)) for name in TEXT_ENCODERS},
        text_features=TOKENS * config["cross_attention_dim"]
        + config["projection_class_embeddings_input_dim"]
        - 6 * config["addition_time_embed_dim"],
        vae_parameters=counts["vae"],
        modules=_modules(unet),
        text_modules={name: _text_modules(files, name) for name in TEXT_ENCODERS},
        text_steps={name: _text_step(files, name) for name in TEXT_ENCODERS},
        full_text_steps={name: _full_text_step(files, name) for name in TEXT_ENCODERS},
        steps={method: _steps(files, config, method) for method in (*TARGET_SETS, "full")},
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


def _steps(files: BaseFiles, config: dict[str, Any], method: TargetSet | str) -> StepFootprints:
    plain, checkpointed = (_step(files, config, method, checkpointing) for checkpointing in (False, True))
    return StepFootprints(plain=plain, checkpointed=checkpointed)


def _step(files: BaseFiles, config: dict[str, Any], method: Any, checkpointing: bool) -> Footprint:
    unet = _unet(files)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    if method == "full":
        unet.requires_grad_(True)
    else:
        attach(unet, rank=RANK, alpha=RANK, targets=method, seed=0)
    return trace_training(unet, config)


def _text_modules(files: BaseFiles, name: str) -> dict[str, tuple[int, int]]:
    layers = adapted_modules(empty_network(files, name), TRACED_TEXT)
    return {layer: (module.weight[0].numel(), len(module.weight)) for layer, module in layers.items()}


def _text_step(files: BaseFiles, name: str) -> Footprint:
    encoder = _half(empty_network(files, name)).requires_grad_(False).eval()
    attach_all({name: encoder}, {name: TRACED_TEXT}, seed=0)
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
