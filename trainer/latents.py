"""What the VAE and the text encoders say of a run's pictures and captions, encoded once and kept.

Latents are kept as the VAE's mean and variance, encoded one picture at a time in fp32, under (picture, VAE, bucket,
crop, flip, dtype); captions under (text, base, dtype). Once everything is cached the encoders leave memory.
Knows nothing about steps or losses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from contracts.buckets import Placement
from contracts.failures import FailureCode, PatinaError
from sdxl.base import TEXT_COMPONENTS, load_base
from sdxl.conditioning import Conditioning, encode_prompts, unconditional
from sdxl.tokens import MAX_TOKENS
from trainer.control import StopRequested
from trainer.images import decode, to_tensor
from trainer.processes import Processes
from trainer.shards import Shards, Tensors

SHARD_ENTRIES = 256
"""Entries after which a shard is closed, so that an interrupted run keeps what it has encoded."""

OnDone = Callable[[int, int], bool]
"""Told (entries encoded, entries to encode) after each; answers whether to stop."""


class View(NamedTuple):
    """One way a picture is seen: which, where it comes from, how it is cut, mirrored or not."""

    image: str
    name: str
    placement: Placement
    flipped: bool

    @property
    def key(self) -> str:
        cut = self.placement
        return f"{self.image}/{cut.bucket}/{cut.crop_left},{cut.crop_top}/{'flipped' if self.flipped else 'plain'}"


class Latents(Protocol):
    """Where the mean and the variance of a view come from."""

    def __call__(self, view: View) -> tuple[torch.Tensor, torch.Tensor]: ...


class Texts(Protocol):
    """Where a caption's conditioning [1, ...] comes from; None is no caption at all."""

    def __call__(self, caption: str | None) -> Conditioning: ...


def cached_latents(
    folder: Path,
    base_dir: Path,
    vae_identity: str,
    views: Sequence[View],
    read: Callable[[str], bytes],
    processes: Processes,
    on_done: OnDone,
    on_missing: Callable[[Sequence[View]], None] = lambda _: None,
) -> Latents:
    """Encode the views that are not in the cache and read all of them from it.

    Args:
        on_missing: told the views that are not there before the first of them is encoded.

    Raises:
        PatinaError: NAN_LATENT with the picture's name.
        StopRequested: ``on_done`` said so; what was encoded until then is kept.
    """
    shards = Shards(folder / "latents" / f"{vae_identity[:32]}-fp32")
    by_key = {view.key: view for view in views}
    missing = processes.from_main([key for key in by_key if key not in shards])
    if missing:
        on_missing([by_key[key] for key in missing])
        encode = _LiveLatents(base_dir, read, processes.device)
        _fill(shards, missing, lambda key: encode.entry(by_key[key]), processes, on_done)

    def latents(view: View) -> tuple[torch.Tensor, torch.Tensor]:
        entry = shards.read(view.key, lambda: _LiveLatents(base_dir, read, processes.device).entry(view))
        return entry["mean"], entry["variance"]

    return latents


def cached_texts(
    folder: Path,
    base_dir: Path,
    base_identity: str,
    captions: Sequence[str],
    max_tokens: int,
    dtype: torch.dtype,
    processes: Processes,
    on_done: OnDone,
    on_missing: Callable[[Sequence[str | None]], None] = lambda _: None,
) -> Texts:
    """Encode the captions that are not in the cache (and the empty condition) and read all of them from it.

    Args:
        on_missing: told the captions that are not there before the first of them is encoded.
    """
    kind = str(dtype).removeprefix("torch.")
    shards = Shards(folder / "texts" / f"{base_identity[:32]}-{kind}")
    by_key = {_text_key(text, max_tokens): text for text in (None, *captions)}
    missing = processes.from_main([key for key in by_key if key not in shards])
    if missing:
        on_missing([by_key[key] for key in missing])
        encode = _LiveTexts(base_dir, max_tokens, dtype, processes.device)
        _fill(shards, missing, lambda key: encode.entry(by_key[key]), processes, on_done)

    def texts(caption: str | None) -> Conditioning:
        entry = shards.read(
            _text_key(caption, max_tokens),
            lambda: _LiveTexts(base_dir, max_tokens, dtype, processes.device).entry(caption),
        )
        return Conditioning(entry["text"], entry["pooled"])

    return texts


def live_latents(base_dir: Path, read: Callable[[str], bytes], processes: Processes) -> Latents:
    """Encode anew at every use, the VAE staying in memory: what the cache must equal."""
    return _LiveLatents(base_dir, read, processes.device)


def live_texts(base_dir: Path, max_tokens: int, dtype: torch.dtype, processes: Processes) -> Texts:
    """Encode anew at every use, the text encoders staying in memory: what the cache must equal."""
    return _LiveTexts(base_dir, max_tokens, dtype, processes.device)


class _LiveLatents:
    def __init__(self, base_dir: Path, read: Callable[[str], bytes], device: torch.device) -> None:
        self._base = load_base(base_dir, dtype=torch.float32, device=device, components={"vae"})
        self._read = read

    def __call__(self, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        entry = self.entry(view)
        return entry["mean"], entry["variance"]

    @torch.no_grad()
    def entry(self, view: View) -> dict[str, torch.Tensor]:
        pixels = to_tensor(decode(self._read(view.image)), view.placement, flipped=view.flipped)
        distribution = self._base.vae.encode(pixels[None].to(self._base.device)).latent_dist
        entry = {"mean": distribution.mean[0].cpu(), "variance": distribution.var[0].cpu()}
        if not all(tensor.isfinite().all() for tensor in entry.values()):
            raise PatinaError(FailureCode.NAN_LATENT, f"The latent of {view.name} is not a finite number.")
        return entry


class _LiveTexts:
    def __init__(self, base_dir: Path, max_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        # Encoded in fp32 and then rounded: the encoders do not stay, so their size does not matter.
        self._base = load_base(base_dir, dtype=torch.float32, device=device, components=TEXT_COMPONENTS)
        self._dtype = dtype
        self._max_tokens = max_tokens

    def __call__(self, caption: str | None) -> Conditioning:
        entry = self.entry(caption)
        return Conditioning(entry["text"], entry["pooled"])

    def entry(self, caption: str | None) -> dict[str, torch.Tensor]:
        if caption is None:
            found = unconditional(self._base)
        else:
            found = encode_prompts(self._base, [caption], max_tokens=self._max_tokens)
        found = found.to(device="cpu", dtype=self._dtype)
        return {"text": found.text, "pooled": found.pooled}


def _text_key(caption: str | None, max_tokens: int) -> str:
    if caption is None:
        return "none"
    text = hashlib.sha256(caption.encode()).hexdigest()
    return text if max_tokens == MAX_TOKENS else f"{text}/{max_tokens}"


def _fill(
    shards: Shards, keys: list[str], encode: Callable[[str], Tensors], processes: Processes, on_done: OnDone
) -> None:
    """Encode ``keys``, shared between the processes, in shards of bounded size."""
    mine = keys[processes.rank :: processes.count]
    done, stopped = 0, False

    def entries(part: Sequence[str]) -> Iterator[tuple[str, Tensors]]:
        nonlocal done, stopped
        for key in part:
            yield key, encode(key)
            done += 1
            if stopped := on_done(min(done * processes.count, len(keys)), len(keys)):
                return

    for start in range(0, len(mine), SHARD_ENTRIES):
        shards.add(entries(mine[start : start + SHARD_ENTRIES]))
        if stopped:
            break
    if int(processes.sum_(torch.tensor(int(stopped), device=processes.device))):
        raise StopRequested
    shards.refresh()
