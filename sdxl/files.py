"""Where a base's tensors and configs lie: a diffusers folder or one file in the original layout, read alike.

Both give tensors under diffusers names, one at a time, so loading and identity cannot disagree between the
two. Knows nothing about models. Reads safetensors only, never pickles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sdxl import family, original
from sdxl.family import refuse_foreign_file, refuse_foreign_folder, unreadable
from sdxl.unet_shape import told_from_names

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
SDXL_CONFIGS = Path(__file__).parent / "configs"
"""Configs of SDXL 1.0 in diffusers form, for single files, which carry none."""
TOKENIZERS = Path(__file__).parents[1] / "bases" / "emoji-xl"
"""CLIP's vocabulary, the same for every SDXL."""

MAPPED_PARTS = 16
"""What is read of a mapped file counts as this process's memory until it is closed; so it is opened so many times."""

_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class BaseFiles:
    """A base on disk.

    Args:
        path: the diffusers folder, or the single file.
        config_dir: folder with model_index.json and each component's config.json.
        tokenizer_dir: folder with tokenizer/ and tokenizer_2/.
        single_file: whether ``path`` is one file in the original layout.
    """

    path: Path
    config_dir: Path
    tokenizer_dir: Path
    single_file: bool


def open_base(path: Path, *, config_dir: Path | None = None, tokenizer_dir: Path | None = None) -> BaseFiles:
    """Find a base and make sure it is SDXL; reads headers and configs only.

    Args:
        path: diffusers folder or .safetensors file.
        config_dir: for a single file of another shape than SDXL 1.0, the folder with its configs.
        tokenizer_dir: for a single file, the folder with the tokenizers.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    if path.is_dir():
        files = BaseFiles(path, path, path, single_file=False)
        refuse_foreign_folder(model_index(files), config(files, "unet"))
        for component in COMPONENTS:
            weight_files(files, component)
        return files
    if not path.is_file():
        raise unreadable(f"There is no folder or file {path.name}.")
    if path.suffix != ".safetensors":
        raise unreadable(f"{path.name} is no .safetensors file; pickled checkpoints (.ckpt, .pt) are never opened.")
    refuse_foreign_file(_file_shapes(path))
    configs = config_dir or SDXL_CONFIGS
    tokenizers = tokenizer_dir or (configs if (configs / "tokenizer").is_dir() else TOKENIZERS)
    return BaseFiles(path, configs, tokenizers, single_file=True)


def config(files: BaseFiles, component: str) -> dict[str, Any]:
    """A component's config.json (or the scheduler's); a single file's UNet has the shape its tensors' names tell."""
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    settings = _json(files.config_dir / component / name)
    if files.single_file and component == "unet":
        with _opened(files.path) as file:
            names = [key.removeprefix(original.UNET) for key in file.keys() if key.startswith(original.UNET)]  # noqa: SIM118 (no mapping)
        return told_from_names(settings, names)
    return settings


def model_index(files: BaseFiles) -> dict[str, Any]:
    """model_index.json."""
    return _json(files.config_dir / "model_index.json")


def weight_files(files: BaseFiles, component: str) -> list[Path]:
    """The safetensors files a component lies in; the full-precision ones where there are several variants."""
    if files.single_file:
        return [files.path]
    folder = files.path / component
    stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
    for variant in ("", ".fp16", ".bf16"):
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            return sorted({folder / Path(name).name for name in _json(index)["weight_map"].values()})
        if (whole := folder / f"{stem}{variant}.safetensors").is_file():
            return [whole]
    raise unreadable(f"There is no {component}/{stem}.safetensors in {files.path.name}.")


def tensors(files: BaseFiles, component: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A component's tensors under diffusers names, in the file's dtype, mapped from disk rather than copied."""
    for path in weight_files(files, component):
        with _opened(path) as file:
            keys = file.keys()
        yield from _renamed(files, component, keys, _reader(path))


def shapes(files: BaseFiles, component: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a component by diffusers name; reads headers only."""
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(files, component):
        named = _file_shapes(path)
        placeholders = {key: torch.empty(shape, device="meta") for key, shape in named.items()}
        found |= {key: tuple(t.shape) for key, t in _renamed(files, component, list(named), placeholders.__getitem__)}
    return found


def is_marked(files: BaseFiles, mark: str) -> bool:
    """Whether a single file says this of itself: an empty tensor named v_pred or ztsnr is the custom."""
    return files.single_file and mark in _file_shapes(files.path)


def header(files: BaseFiles) -> dict[str, str]:
    """What a single file's header says, such as ModelSpec's words; nothing for a folder."""
    if not files.single_file:
        return {}
    with _opened(files.path) as file:
        return dict(file.metadata() or {})


def few_steps(files: BaseFiles) -> str | None:
    """The word by which a base is called distilled to sample in few steps, in its file's name or its own."""
    own = (
        header(files).get("modelspec.title", "") if files.single_file else str(model_index(files).get("_name_or_path"))
    )
    return family.few_steps([files.path.name, own])


def _renamed(files: BaseFiles, component: str, keys: Any, read: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if not files.single_file:
        for key in keys:
            if not key.endswith("position_ids"):
                yield _folder_name(component, key, read(key))
        return
    prefix = original.PREFIXES[component]
    names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    levels = original.vae_levels(names)
    for name in names:
        yield from original.to_diffusers(component, name, read(prefix + name), levels)


def _reader(path: Path) -> Callable[[str], torch.Tensor]:
    """Reads tensors by name; a mapping ends when the file is opened anew and none of its tensors is held."""
    file, read_bytes = _opened(path), 0
    part_bytes = path.stat().st_size / MAPPED_PARTS

    def read(key: str) -> torch.Tensor:
        nonlocal file, read_bytes
        if read_bytes >= part_bytes:
            file, read_bytes = _opened(path), 0
        tensor: torch.Tensor = file.get_tensor(key)
        read_bytes += tensor.nbytes
        return tensor

    return read


def _folder_name(component: str, key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Bring the spellings of library versions together: CLIP with or without text_model., old VAE attention."""
    if component.startswith("text_encoder") and not key.startswith(("text_model.", "text_projection.")):
        key = f"text_model.{key}"
    if component == "vae" and ".attentions." in key:
        head, _, part = key.rpartition(".attentions.")
        pieces = part.split(".")
        pieces[1] = _OLD_VAE_ATTENTION.get(pieces[1], pieces[1])
        key = f"{head}.attentions.{'.'.join(pieces)}"
        if tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]
    return key, tensor


def _file_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError):
        raise unreadable(f"{path.name} is not a readable safetensors file; copy it again.") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        raise unreadable(f"There is no readable {path.parent.name}/{path.name}.") from None
    if not isinstance(value, dict):
        raise unreadable(f"{path.parent.name}/{path.name} is not a JSON object.")
    return value
