"""Trace what SDXL's networks keep alive while they work, on tensors that have shapes and no data.

One trace tells how every tensor grows: its batch, rank and sides are primes that divide nothing else, so the number
of elements of a tensor says what it is made of. Full size takes seconds and no memory. What kernels take inside and
give back, on a GPU or elsewhere, is not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.nn import functional as F

from contracts.footprint import Footprint, Moment, Work
from sdxl.live import LiveStorages

IMAGES, RANK, SIDES = 13, 23, (17, 19)
"""Primes, so that what a number of elements can be divided by says what it grows with."""
TOKENS = 77
COMPUTE = torch.bfloat16
"""What networks are traced in; its tensors are counted by number, as another compute type makes them larger."""

Factors = NDArray[np.float64]
"""Twelve: of six terms in numbers of the compute type, and of six in bytes of other types."""


def trace_training(unet: nn.Module, config: dict[str, Any]) -> Footprint:
    """What a training step of ``unet`` (on the meta device) has alive beyond weights and gradients."""
    return _footprint_of_step(unet, config, lambda: _call(unet, config, _sides(config)))


def trace_autocast(unet_of: Callable[[], nn.Module], config: dict[str, Any]) -> Footprint:
    """The same of a UNet in fp32 that computes in ``COMPUTE`` by autocast, copies of its weights included.

    Autocast knows no meta device: tensors without data say here that they are a processor's, and a processor's choice
    of what is computed in fp32 is what is traced.

    Args:
        unet_of: makes the UNet, on whatever tensor mode is in force.
    """
    with FakeTensorMode():
        unet = unet_of()

        def call() -> torch.Tensor:
            with torch.autocast("cpu", COMPUTE):
                return _call(unet, config, _sides(config), device="cpu", dtype=torch.float32)

        return _footprint_of_step(unet, config, call)


def _footprint_of_step(unet: nn.Module, config: dict[str, Any], call: Callable[[], torch.Tensor]) -> Footprint:
    ignored = [*unet.parameters(), *unet.buffers()]
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            ignored.append(parameter.grad)

    def step() -> None:
        predicted = call()
        loss = (predicted.float() - torch.empty_like(predicted, dtype=torch.float32)).square().mean()
        loss.backward()

    try:
        return _footprint(step, ignored, _sides(config))
    finally:
        for parameter in unet.parameters():
            parameter.grad = None


def trace_text(encoder: Any) -> Footprint:
    """What encoding with an ``encoder`` in training (on the meta device) has alive when the backward pass begins."""

    def encode() -> object:
        tokens = torch.zeros(IMAGES, TOKENS, dtype=torch.int64, device="meta")
        return encoder(tokens, output_hidden_states=True)

    return _footprint(encode, [*encoder.parameters(), *encoder.buffers()], SIDES)


@torch.no_grad()
def trace_sampling(unet: nn.Module, config: dict[str, Any]) -> Footprint:
    """What one forward pass of ``unet`` (on the meta device) has alive when nothing is kept for a backward pass."""
    sides = _sides(config)
    return _footprint(lambda: _call(unet, config, sides), [*unet.parameters(), *unet.buffers()], sides)


@torch.no_grad()
def trace_vae(vae: Any, factor: int) -> tuple[Footprint, Footprint]:
    """What encoding and decoding with ``vae`` (on the meta device) have alive, a picture's pixels included."""
    weights = [*vae.parameters(), *vae.buffers()]
    height, width = SIDES[0] * factor, SIDES[1] * factor
    config = vae.config

    def encode() -> object:
        pixels = torch.empty(IMAGES, config.in_channels, height, width, device="meta", dtype=COMPUTE)
        found = vae.encode(pixels).latent_dist
        return found.mean, found.var

    def decode() -> object:
        latents = torch.empty(IMAGES, config.latent_channels, *SIDES, device="meta", dtype=COMPUTE)
        return vae.decode(latents, return_dict=False)[0]

    return _footprint(encode, weights, SIDES), _footprint(decode, weights, SIDES)


def _sides(config: dict[str, Any]) -> tuple[int, int]:
    halvings = len(config["block_out_channels"]) - 1
    return SIDES[0] << halvings, SIDES[1] << halvings


def _call(
    unet: Any,
    config: dict[str, Any],
    sides: tuple[int, int],
    device: str = "meta",
    dtype: torch.dtype = COMPUTE,
) -> torch.Tensor:
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    added = {
        "text_embeds": torch.empty(IMAGES, pooled, **like),
        "time_ids": torch.empty(IMAGES, 6, device=device),
    }
    text = torch.empty(IMAGES, TOKENS, config["cross_attention_dim"], **like)
    latents = torch.empty(IMAGES, config["in_channels"], *sides, **like)
    timesteps = torch.empty(IMAGES, dtype=torch.int64, device=device)
    predicted: torch.Tensor = unet(latents, timesteps, text, added_cond_kwargs=added, return_dict=False)[0]
    return predicted


def _footprint(work: Callable[[], object], ignored: Iterable[torch.Tensor], sides: tuple[int, int]) -> Footprint:
    positions = sides[0] * sides[1]
    moments: list[Factors] = []
    with _fused_attention(), LiveStorages(lambda t: _factors(t, positions), np.zeros(12), moments.append, ignored):
        work()
    return Footprint(moments=tuple(_that_can_be_largest(np.unique(np.stack(moments), axis=0))))


def _factors(tensor: torch.Tensor, positions: int) -> Factors:
    """A storage's size as the factor of the one term that it grows with."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    term, divisor = 0, 1
    if size % (IMAGES * SIDES[0] * SIDES[1]) == 0:
        term, divisor = 4, IMAGES * positions
    elif size % IMAGES == 0:
        term, divisor = 2, IMAGES
    if size % RANK == 0:
        term, divisor = term + 1, divisor * RANK
    factors = np.zeros(12)
    if tensor.dtype is COMPUTE:
        factors[term] = size / divisor
    else:
        factors[6 + term] = size / divisor * tensor.element_size()
    return factors


def _that_can_be_largest(moments: Factors) -> Iterator[Moment]:
    """The moments that are the peak at one of many sizes."""
    sizes = [
        Work(images=images, positions=side**2, rank=rank, bytes_each=bytes_each)
        for images, side, rank, bytes_each in itertools.product(
            (1, 2, 4, 8, 16, 64), (4, 8, 16, 32, 64, 128, 256), (1, 8, 32, 128), (2, 4)
        )
    ]
    weights = np.array([[term * size.bytes_each for term in size.terms] + list(size.terms) for size in sizes])
    for chosen in sorted(set(np.argmax(moments @ weights.T, axis=0).tolist())):
        rounded = [float(f"{factor:.8g}") for factor in moments[chosen]]
        yield Moment(numbers=tuple(rounded[:6]), bytes=tuple(rounded[6:]))


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as processors and GPUs compute it, in memory that is linear in the positions.

    On tensors without data torch takes the way that writes all positions times all positions. Only their calls are
    changed meanwhile, blocks recomputed by the backward pass included, which a torch function mode does not see.
    """
    usual = F.scaled_dot_product_attention
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not (query.device.type == "meta" or isinstance(query, FakeTensor)):
            return usual(query, *args, **kwargs)
        key, value, *rest = args
        mask = rest[0] if rest else kwargs.get("attn_mask")
        causal = bool(kwargs.get("is_causal"))
        attended: torch.Tensor = fused(query, key, value, 0.0, causal, attn_mask=mask, scale=kwargs.get("scale"))[0]
        return attended

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual
