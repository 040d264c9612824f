"""Load an SDXL base from a diffusers folder or a single .safetensors file, each part in its target dtype.

Knows nothing about adapters, datasets or requests. Parts are built without memory and filled tensor by
tensor, so the peak is the parts asked for and nothing more.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from contracts.base import BaseDescription, BaseProfile, Denoising, Family, PredictionType
from contracts.failures import FailureCode, PatinaError
from contracts.precision import Quantization
from sdxl import files as base_files
from sdxl.files import BaseFiles, open_base
from sdxl.identity import identities
from sdxl.networks import denoising, load_network, native_px, schedule_as_trained, scheduler_config, vae_factor
from sdxl.profile import profile_of
from sdxl.stock import CLIPTokenizer

ALL_COMPONENTS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"})
TEXT_COMPONENTS = frozenset({"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"})
NOT_HASHED = ""
"""In place of an identity: of a base none of whose weights is read yet."""


@dataclass
class Base:
    """A loaded base; parts that were not asked for are None.

    The networks are frozen and in eval mode. Their types are diffusers' and transformers' own classes.
    """

    path: Path
    files: BaseFiles
    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    scheduler_config: dict[str, Any]
    native_px: int
    vae_factor: int
    latent_channels: int
    vae_scaling_factor: float
    prediction_type: PredictionType
    force_zeros_for_empty_prompt: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def denoising(self) -> Denoising:
        """What its scheduler's config says of it."""
        return denoising(self.scheduler_config)

    def sampled_as(self, way: Denoising) -> Base:
        """The same with the schedule that weights in its place or on it were trained for."""
        if way == self.denoising:
            return self
        return replace(self, scheduler_config=schedule_as_trained(self.scheduler_config, *way))


def load_base(
    path: Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    components: Set[str] | None = None,
    vae_dtype: torch.dtype = torch.float32,
    quantize: Quantization | None = None,
    config_dir: Path | None = None,
    tokenizer_dir: Path | None = None,
) -> Base:
    """Load the parts of a base that are needed.

    Args:
        path: diffusers folder or single .safetensors file.
        dtype: of the UNet and the text encoders.
        device: where the networks go.
        components: names of the parts; None is all of them.
        vae_dtype: of the VAE, whose decoder overflows in half precision.
        quantize: how the weights of the UNet's transformers are kept; None as ``dtype`` says.
        config_dir: see ``sdxl.files.open_base``.
        tokenizer_dir: see ``sdxl.files.open_base``.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    files = open_base(path, config_dir=config_dir, tokenizer_dir=tokenizer_dir)
    wanted = ALL_COMPONENTS if components is None else components
    if unknown := wanted - ALL_COMPONENTS:
        raise ValueError(f"unknown components {sorted(unknown)}; there are {sorted(ALL_COMPONENTS)}")

    def network(name: str) -> Any:
        if name not in wanted:
            return None
        bits = quantize if name == "unet" else None
        return load_network(files, name, dtype=vae_dtype if name == "vae" else dtype, device=device, quantize=bits)

    def tokenizer(name: str) -> Any:
        return CLIPTokenizer.from_pretrained(files.tokenizer_dir / name) if name in wanted else None

    scheduler, vae = scheduler_config(files), base_files.config(files, "vae")
    return Base(
        path=path,
        files=files,
        unet=network("unet"),
        vae=network("vae"),
        text_encoder=network("text_encoder"),
        text_encoder_2=network("text_encoder_2"),
        tokenizer=tokenizer("tokenizer"),
        tokenizer_2=tokenizer("tokenizer_2"),
        scheduler_config=scheduler,
        native_px=native_px(files),
        vae_factor=vae_factor(files),
        latent_channels=int(vae["latent_channels"]),
        vae_scaling_factor=float(vae["scaling_factor"]),
        prediction_type=scheduler["prediction_type"],
        force_zeros_for_empty_prompt=bool(base_files.model_index(files).get("force_zeros_for_empty_prompt", True)),
        dtype=dtype,
        device=torch.device(device),
    )


def describe(
    path: Path, *, cache_dir: Path | None = None, config_dir: Path | None = None, tokenizer_dir: Path | None = None
) -> BaseDescription:
    """Everything the catalog keeps about a base: identity, sizes and the traced profile that planning needs.

    Another family is refused from names and configs, before any weight is read.

    Args:
        cache_dir: where identities of files and profiles of shapes seen before are kept; None computes them.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    files = open_base(path, config_dir=config_dir, tokenizer_dir=tokenizer_dir)
    profile = profile_of(files, cache_dir)
    return description(files, profile, identities(files, cache_dir))


def description(
    files: BaseFiles, profile: BaseProfile, hashes: tuple[str, str] = (NOT_HASHED, NOT_HASHED)
) -> BaseDescription:
    """What configs, headers and the profile say of a base; ``hashes`` are its identity and its VAE's."""
    identity_, vae_identity = hashes
    scheduler = scheduler_config(files)
    return BaseDescription(
        family=Family.SDXL,
        identity=identity_,
        vae_identity=vae_identity,
        native_px=native_px(files),
        prediction_type=scheduler["prediction_type"],
        zero_terminal_snr=denoising(scheduler).from_pure_noise,
        latent_channels=int(base_files.config(files, "vae")["latent_channels"]),
        vae_factor=vae_factor(files),
        profile=profile,
    )


def require_identity(path: Path, registered: str, *, cache_dir: Path | None = None) -> tuple[str, str]:
    """Make sure that a base's files are still those that were registered; returns what ``identity`` does.

    Raises:
        PatinaError: BASE_UNREADABLE; or BASE_MISMATCH naming both identities.
    """
    found = identity(path, cache_dir=cache_dir)
    if found[0] != registered:
        raise PatinaError(
            FailureCode.BASE_MISMATCH,
            f"The files of the base at {path.name} were changed: it was registered as {registered[:12]}, and is "
            f"{found[0][:12]}.",
            "Put the files back that were registered, or register these as a base of their own: patina bases add.",
        )
    return found


def identity(path: Path, *, cache_dir: Path | None = None, config_dir: Path | None = None) -> tuple[str, str]:
    """(identity of UNet and text encoders, identity of the VAE); equal for a folder and a file of the same.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    return identities(open_base(path, config_dir=config_dir), cache_dir)
