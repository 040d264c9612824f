"""A base is loaded in its target dtype from a mapped file: loading takes no more memory than what was loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.random_sdxl import TINY, write_base
from benchmarks.rss import memory, settle
from sdxl.base import load_base

ALLOWED = 1.4
"""Of the target's bytes; a copy of all weights, in whichever type, would make it 2 or more."""


@pytest.fixture(scope="module", params=[torch.float16, torch.float32], ids=["stored fp16", "stored fp32"])
def middling(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose UNet of 30 million numbers stands out from what Python itself takes and gives back."""
    folder = tmp_path_factory.mktemp("middling")
    wider = {"block_out_channels": [64, 128, 256], "attention_head_dim": [2, 4, 8], "norm_num_groups": 32}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TINY, "unet", TINY["unet"] | wider)
        write_base(folder, size="tiny", dtype=request.param)
    return folder


class TestLoading:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_takes_no_more_memory_than_the_weights_in_their_target_dtype(
        self, middling: Path, dtype: torch.dtype
    ) -> None:
        load_base(middling, dtype=dtype, components={"unet"})
        before = settle()
        unet = load_base(middling, dtype=dtype, components={"unet"}).unet
        rise = memory("VmHWM") - before
        weights = sum(parameter.nbytes for parameter in unet.parameters())
        assert weights > 50_000_000
        assert {parameter.dtype for parameter in unet.parameters()} == {dtype}
        assert rise < ALLOWED * weights
        # What is measured would show such a copy.
        torch.nn.Module.to(unet, torch.float32)
        assert memory("VmHWM") - before > ALLOWED * weights

    @pytest.mark.parametrize("middling", [torch.float16], ids=["stored fp16"], indirect=True)
    def test_keeps_no_page_of_the_weights_that_it_quantises(self, middling: Path) -> None:
        # In the type it is stored in, nothing but a copy takes a tensor off the file.
        load_base(middling, dtype=torch.float16, components={"unet"}, quantize="nf4")
        settle()
        mapped = memory("RssFile")
        unet = load_base(middling, dtype=torch.float16, components={"unet"}, quantize="nf4").unet
        assert sum(parameter.nbytes for parameter in unet.parameters()) > 25_000_000
        assert memory("RssFile") - mapped < 10_000_000
