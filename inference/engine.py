"""One base on one device, generating for many requests at once, each picture with its own adapters.

Knows nothing about who asks, where files come from or where pictures go. One thread at a time may use it:
adapters and their selection are state of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.adapter import shared_denoising
from contracts.base import Denoising
from contracts.failures import FailureCode, PatinaError
from inference.adapters import AdapterCache
from inference.batching import Item, Shape, group
from inference.variants import Variants
from sdxl.base import load_base, require_identity
from sdxl.conditioning import Conditioning, encode_prompts, join, unconditional
from sdxl.formats import read_header
from sdxl.lora import serve, serve_texts
from sdxl.sampling import sample, to_bytes
from sdxl.tokens import LONGEST_TOKENS


@dataclass(frozen=True)
class AdapterUse:
    """A LoRA file and how strongly it acts; ``key`` stands for its content and is read once while held."""

    key: str
    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class EngineRequest:
    """One prompt, one picture for each seed."""

    prompt: str
    seeds: tuple[int, ...]
    width: int
    height: int
    negative_prompt: str = ""
    steps: int = 25
    guidance_scale: float = 5.0
    adapters: tuple[AdapterUse, ...] = ()
    full_weights: Path | None = None
    """A full fine-tune's weights in place of the base's."""


Pictures = NDArray[np.float32]
"""[N, height, width, 3] between 0 and 1."""
Progress = Callable[[tuple[int, ...], int, int], None]
"""Told (indices of the requests at work, steps done, steps in all)."""
Cancelled = Callable[[int], bool]
"""Asked after each step whether the request of that index is still wanted."""


class Engine:
    """The engine of one base.

    Args:
        base_path: diffusers folder or single .safetensors file.
        device: "cpu", "cuda", "cuda:1"...
        dtype: of the UNet and text encoders; None is bf16 on a GPU and fp32 on a CPU.
        adapter_cache_bytes: how much adapters may take on the device.
        base_identity: the base's files must be of it, and weights files that name another are refused; None leaves it
            unchecked.
        identity_cache: where the identity of files seen before is kept.
        max_pictures: the largest batch.

    Raises:
        PatinaError: BASE_UNREADABLE, or BASE_MISMATCH naming both identities.
    """

    def __init__(
        self,
        base_path: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        adapter_cache_bytes: int = 2 * 2**30,
        base_identity: str | None = None,
        identity_cache: Path | None = None,
        max_pictures: int = 8,
    ) -> None:
        if base_identity is not None:
            require_identity(base_path, base_identity, cache_dir=identity_cache)
        chosen = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
        self.base = load_base(base_path, dtype=chosen, device=device)
        self._variants = Variants(self.base, base_identity=base_identity)
        self._bank = serve(self.base.unet)
        self._text_bank = serve_texts(self.base.text_encoder, self.base.text_encoder_2)
        self._exchanges = 0
        self.adapters = AdapterCache(
            self._bank, self._text_bank, max_bytes=adapter_cache_bytes, base_identity=base_identity
        )
        self._max_pictures = max_pictures

    def generate(
        self,
        requests: Sequence[EngineRequest],
        *,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> list[list[NDArray[np.uint8]] | PatinaError]:
        """Each request's pictures [height, width, 3] in 8 bits, or why it has none; one bad request spoils no other."""
        found = self.generate_unit(requests, progress=progress, cancelled=cancelled)
        return [result if isinstance(result, PatinaError) else [*to_bytes(result)] for result in found]

    def generate_unit(
        self,
        requests: Sequence[EngineRequest],
        *,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> list[Pictures | PatinaError]:
        """As ``generate``, before rounding: pictures [N, height, width, 3] between 0 and 1."""
        failures: dict[int, PatinaError] = {}
        shapes = [self._shape(index, request, failures) for index, request in enumerate(requests)]
        pictures: dict[Item, NDArray[np.float32]] = {}
        waiting = group(shapes, [len(r.seeds) for r in requests], self._max_pictures)
        while waiting:
            batch = [item for item in waiting.pop(0) if item.request not in failures]
            batch = self._prepared(requests, batch, failures)
            if not batch:
                continue
            try:
                made = self._run(requests, batch, shapes[batch[0].request].denoising, progress, cancelled)
            except _NobodyWaits:
                failures |= {item.request: PatinaError(FailureCode.CANCELLED) for item in batch}
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(batch) == 1:
                    failures[batch[0].request] = _too_large(requests[batch[0].request])
                else:
                    waiting[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
            else:
                pictures |= dict(zip(batch, made, strict=True))
        return [
            failures.get(index) or np.stack([pictures[Item(index, number)] for number in range(len(request.seeds))])
            for index, request in enumerate(requests)
        ]

    def close(self) -> None:
        """Give the device's memory back; the engine cannot be used afterwards."""
        self._bank.detach()
        self._text_bank.detach()
        self.base.unet = self.base.vae = self.base.text_encoder = self.base.text_encoder_2 = None
        del self._bank, self._text_bank, self._variants, self.adapters
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def _shape(self, index: int, request: EngineRequest, failures: dict[int, PatinaError]) -> Shape:
        """What a request shares with those it may be made with; one whose weights do not go together fails."""
        full, way = request.full_weights, self.base.denoising
        try:
            headers = [self.adapters.header(use.key, use.path) for use in request.adapters if use.scale != 0]
            headers += [] if full is None else [read_header(full)]
            way = shared_denoising(way, [header for header in headers if header is not None])
        except PatinaError as error:
            failures[index] = error
        guided = request.guidance_scale > 1
        return Shape(request.width, request.height, request.steps, guided, None if full is None else str(full), way)

    def _prepared(
        self, requests: Sequence[EngineRequest], batch: Sequence[Item], failures: dict[int, PatinaError]
    ) -> list[Item]:
        """Have the weights of a batch on the model; requests whose weights cannot be had fail alone."""
        indices = dict.fromkeys(item.request for item in batch)
        needed = {use.key for index in indices for use in requests[index].adapters}
        for index in indices:
            try:
                self._variants.use(requests[index].full_weights)
                for use in requests[index].adapters:
                    self.adapters.hold(use.key, use.path, needed=needed)
            except PatinaError as error:
                failures[index] = error
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                failures[index] = PatinaError(
                    FailureCode.OUT_OF_MEMORY,
                    "The device has no memory for the weights beside the base.",
                    "Ask for fewer or smaller weights, or free the device.",
                )
        return [item for item in batch if item.request not in failures]

    def _run(
        self,
        requests: Sequence[EngineRequest],
        batch: Sequence[Item],
        way: Denoising,
        progress: Progress | None,
        cancelled: Cancelled | None,
    ) -> Pictures:
        asked = [requests[item.request] for item in batch]
        indices = tuple(dict.fromkeys(item.request for item in batch))

        def on_step(done: int, steps: int) -> None:
            if cancelled is not None and all(cancelled(index) for index in indices):
                raise _NobodyWaits
            if progress is not None:
                progress(indices, done, steps)

        first = asked[0]
        if self._exchanges != self._variants.exchanges:
            self._bank.base_changed()
            self._text_bank.base_changed()
            self._exchanges = self._variants.exchanges
        choices = [_strengths(request.adapters) for request in asked]
        self._bank.select(choices)
        guided = first.guidance_scale > 1
        return sample(
            self.base.sampled_as(way),
            self._encoded([request.prompt for request in asked], choices),
            negative=self._encoded([request.negative_prompt for request in asked], choices) if guided else None,
            seeds=[requests[item.request].seeds[item.picture] for item in batch],
            steps=first.steps,
            guidance_scale=[request.guidance_scale for request in asked],
            width=first.width,
            height=first.height,
            on_step=on_step,
        )

    def _encoded(self, prompts: Sequence[str], choices: Sequence[Mapping[str, float]]) -> Conditioning:
        """Each distinct prompt encoded once and alone, so that its bits do not depend on its neighbours.

        Adapters of the text encoders act on their own request's prompts alone.
        """
        wanted = [(p, tuple(self._text_bank.acting(c).items())) for p, c in zip(prompts, choices, strict=True)]
        known = {}
        for prompt, acting in dict.fromkeys(wanted):
            self._text_bank.select([dict(acting)])
            known[prompt, acting] = (
                encode_prompts(self.base, [prompt], max_tokens=LONGEST_TOKENS) if prompt else unconditional(self.base)
            )
        return join([known[one] for one in wanted])


class _NobodyWaits(Exception):
    """Every request of the batch at work was cancelled."""


def _strengths(adapters: Sequence[AdapterUse]) -> dict[str, float]:
    """Key -> scale; the same file named twice acts with the sum."""
    strengths: dict[str, float] = {}
    for use in adapters:
        strengths[use.key] = strengths.get(use.key, 0.0) + use.scale
    return strengths


def _too_large(request: EngineRequest) -> PatinaError:
    return PatinaError(
        FailureCode.OUT_OF_MEMORY,
        f"The device has no memory for one picture of {request.width} x {request.height}.",
        "Ask for a smaller picture, or free the device.",
    )
