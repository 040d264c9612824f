"""A LoRA on disk in the three dialects there are: kohya's, diffusers' and PEFT's, each told from its keys.

One internal form (sdxl/adapter.py) is read from and written to each, without loss. Whatever is read may come
from anywhere and say anything. Knows nothing about registries or models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from contracts.adapter import AdapterHeader
from sdxl import tensor_files
from sdxl.adapter import COMPONENTS, AdapterModule, Modules, from_state, in_component, most_common_alpha, to_state
from sdxl.kohya import from_kohya, to_kohya
from sdxl.peft_settings import alphas_by, require_dora, settings_of, unwritable
from sdxl.tensor_files import LEGACY_HASH, MODEL_HASH, TAIL_HASH, unreadable

Dialect = Literal["kohya", "diffusers", "peft"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""Header key by which diffusers and peft learn rank and alpha, which PEFT key names do not carry."""
PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
MAX_ADAPTER_BYTES = 4 * 2**30
MAX_CONFIG_BYTES = 2**22

_KEPT = ("modelspec.", "ss_", "patina.")
"""Header entries that say what the weights are, in any dialect."""
_PEFT_PREFIX = "base_model.model."
_SPELLINGS = (
    (re.compile(r"\.processor\.to_(q|k|v)_lora\.(down|up)\.weight$"), r".to_\1.lora.\2.weight"),
    (re.compile(r"\.processor\.to_out_lora\.(down|up)\.weight$"), r".to_out.0.lora.\1.weight"),
    (re.compile(r"\.lora(?:_linear_layer)?\.down\.weight$"), ".lora_A.weight"),
    (re.compile(r"\.lora(?:_linear_layer)?\.up\.weight$"), ".lora_B.weight"),
    (re.compile(r"\.lora_magnitude_vector\.weight$"), ".lora_magnitude_vector"),
    (re.compile(r"^(text_encoder(?:_2)?)\.(?=encoder\.)"), r"\1.text_model."),
)
"""What versions of diffusers have called the same tensors, oldest first; each is brought to the next."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA read from disk."""

    modules: Modules
    dialect: Dialect
    metadata: dict[str, str]
    """What its header says of the weights; text from wherever the file comes from."""

    @property
    def header(self) -> AdapterHeader | None:
        """None when the file was not made by Patina."""
        return AdapterHeader.from_metadata(self.metadata)

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The tensors under PEFT keys."""
        return to_state(self.modules)

    @property
    def alphas(self) -> dict[str, float]:
        """By module; what each update is scaled by is alpha / rank of its own module."""
        return {name: module.alpha for name, module in self.modules.items()}

    @property
    def rank(self) -> int:
        """The largest of its modules'."""
        return max(module.rank for module in self.modules.values())

    @property
    def alpha(self) -> float:
        """The one most of its modules have."""
        return most_common_alpha(self.modules)

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())


def read(path: Path) -> Adapter:
    """Read a file of kohya's or diffusers', or a PEFT folder.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, with the reason.
    """
    return _read_folder(path) if path.is_dir() else _read_file(path)


def write(path: Path, modules: Modules, metadata: Mapping[str, str], dialect: Dialect) -> None:
    """Write a file, or with PEFT's dialect a folder that must not be there yet.

    Args:
        metadata: for the header: ModelSpec's, kohya's and ours; what follows from the modules is set here.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, the dialect has no words for what the modules are.
    """
    words = _header_words(modules, metadata)
    if dialect == "peft":
        _write_folder(path, modules, words)
    elif dialect == "kohya":
        words |= {TAIL_HASH: "", MODEL_HASH: "", LEGACY_HASH: ""}
        tensor_files.write(path, tensor_files.entries_of(to_kohya(modules)), words)
    else:
        settings = {
            f"{component}.{key}": value
            for component in COMPONENTS
            if (inside := in_component(modules, component))
            for key, value in settings_of(inside).items()
        }
        words |= {TAIL_HASH: "", "format": "pt", ADAPTER_METADATA: json.dumps(settings, sort_keys=True)}
        state = {_loadable(key): tensor for key, tensor in to_state(modules).items()}
        tensor_files.write(path, tensor_files.entries_of(state), words)


def said(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a header says of the weights: without hashes of its file and without what only one dialect needs."""
    kept = {key: value for key, value in metadata.items() if key.startswith(_KEPT)}
    return {key: value for key, value in kept.items() if key != TAIL_HASH}


def _header_words(modules: Modules, metadata: Mapping[str, str]) -> dict[str, str]:
    """What is said of the weights, with the shape of the network as it is."""
    words = said(metadata)
    defaults = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0",
    }
    named = in_component(modules, "unet") or modules
    linear = {name: module for name, module in named.items() if module.down.ndim == 2} or named
    convolutions = {name: module for name, module in modules.items() if module.down.shape[2:] not in ((), (1, 1))}
    args: dict[str, str] = {}
    if convolutions:
        args |= {"conv_dim": _rank(convolutions), "conv_alpha": f"{most_common_alpha(convolutions):g}"}
    is_dora = any(module.magnitude is not None for module in modules.values())
    if is_dora:
        args |= {"algo": "locon" if convolutions else "lora", "dora_wd": "True", "wd_on_output": "True"}
    network = {
        "ss_network_module": "lycoris.kohya" if is_dora else "networks.lora",
        "ss_network_dim": _rank(linear),
        "ss_network_alpha": f"{most_common_alpha(linear):g}",
        "ss_network_args": json.dumps(args),
    }
    return defaults | words | network


def _rank(modules: Mapping[str, AdapterModule]) -> str:
    return str(Counter(module.rank for module in modules.values()).most_common(1)[0][0])


def _read_file(path: Path) -> Adapter:
    state, metadata = _tensors(path)
    if all(key.startswith("lora_") for key in state) and state:
        return Adapter(from_kohya(state), "kohya", said(metadata))
    state = {_spelled(key): tensor for key, tensor in state.items()}
    settings = _settings(metadata)
    header = AdapterHeader.from_metadata(metadata)
    return _with_settings(state, settings, "diffusers", metadata, header.alpha if header else None)


def _read_folder(path: Path) -> Adapter:
    found = [component for component in COMPONENTS if (path / component / PEFT_CONFIG).is_file()]
    if not found:
        raise unreadable(f"There is no {' or '.join(COMPONENTS)} with an {PEFT_CONFIG} in {path.name}.")
    state: dict[str, torch.Tensor] = {}
    settings: dict[str, dict[str, Any]] = {}
    metadata: dict[str, str] = {}
    for component in found:
        tensors, words = _tensors(path / component / PEFT_WEIGHTS)
        metadata |= words
        for key, tensor in tensors.items():
            if not key.startswith(_PEFT_PREFIX):
                raise unreadable(f"'{key[:120]}' is no key of a PEFT folder.")
            state[_spelled(f"{component}.{key.removeprefix(_PEFT_PREFIX)}")] = tensor
        settings[component] = _config(path / component / PEFT_CONFIG)
    return _with_settings(state, settings, "peft", metadata, None)


def _with_settings(
    state: Mapping[str, torch.Tensor],
    settings: Mapping[str, Mapping[str, Any]],
    dialect: Dialect,
    metadata: Mapping[str, str],
    default_alpha: float | None,
) -> Adapter:
    plain = from_state(state)
    alphas: dict[str, float] = {}
    for component in COMPONENTS:
        inside = in_component(plain, component)
        own = settings.get(component, {})
        require_dora(own, inside)
        ranks = {name: module.rank for name, module in inside.items()}
        alphas |= {f"{component}.{name}": alpha for name, alpha in alphas_by(own, ranks, default_alpha).items()}
    return Adapter(from_state(state, alphas), dialect, said(metadata))


def _write_folder(path: Path, modules: Modules, words: Mapping[str, str]) -> None:
    if path.exists():
        raise unwritable(f"{path.name} is already there.")
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        for component in COMPONENTS:
            inside = in_component(modules, component)
            if not inside:
                continue
            settings = settings_of(inside)
            # diffusers' load_lora_adapter reads no adapter_config.json, and would take every alpha for the rank.
            repeated = json.dumps({f"{_PEFT_PREFIX}{key}": value for key, value in settings.items()}, sort_keys=True)
            state = {f"{_PEFT_PREFIX}{_in_library(component, key)}": tensor for key, tensor in to_state(inside).items()}
            folder = temporary / component
            own = {"format": "pt", TAIL_HASH: "", ADAPTER_METADATA: repeated}
            tensor_files.write(folder / PEFT_WEIGHTS, tensor_files.entries_of(state), dict(words) | own)
            own_config = {"peft_type": "LORA", "inference_mode": True, "task_type": None}
            (folder / PEFT_CONFIG).write_text(json.dumps(settings | own_config, indent=2))
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _loadable(key: str) -> str:
    """transformers loads text encoders' adapters and puts its adapter's name before the last word: it must be one."""
    return f"{key}.weight" if key.endswith(".lora_magnitude_vector") and not key.startswith("unet.") else key


def _in_library(component: str, key: str) -> str:
    """PEFT names layers as the library does, whose CLIPTextModel has lost its ``text_model``."""
    return key.removeprefix("text_model.") if component == "text_encoder" else key


def _tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.is_file() and path.stat().st_size > MAX_ADAPTER_BYTES:
        raise unreadable(f"{path.name} is larger than {MAX_ADAPTER_BYTES >> 30} GiB.")
    with tensor_files.opened(path) as file:
        return {key: file.get_tensor(key) for key in tensor_files.shapes_of(file)}, file.metadata() or {}


def _spelled(key: str) -> str:
    for spelling, newer in _SPELLINGS:
        key = spelling.sub(newer, key)
    return key


def _settings(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The header's PEFT settings by component."""
    try:
        words = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
        found: dict[str, dict[str, Any]] = {component: {} for component in COMPONENTS}
        for key, value in words.items():
            component, _, name = key.partition(".")
            if component in found:
                found[component][name] = value
    except (ValueError, AttributeError, RecursionError):
        raise unreadable(f"Its {ADAPTER_METADATA} header cannot be read.") from None
    return found


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError
        settings = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise unreadable(f"{path.parent.name}/{path.name} cannot be read.")
    if settings.get("peft_type") != "LORA":
        raise unreadable(f"{path.parent.name}/{path.name} is of {str(settings.get('peft_type'))[:40]}, not of LORA.")
    return settings
