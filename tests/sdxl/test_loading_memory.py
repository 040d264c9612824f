"""A base is loaded in its target dtype from a mapped file: loading takes no more memory than what was loaded."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

import pytest
import torch

from benchmarks.random_sdxl import TINY, write_base
from sdxl.base import load_base

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""What /proc/self/clear_refs takes for: the highest memory so far is what is held now (man 5 proc)."""
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
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        before = _bytes("VmRSS")
        unet = load_base(middling, dtype=dtype, components={"unet"}).unet
        rise = _bytes("VmHWM") - before
        weights = sum(parameter.nbytes for parameter in unet.parameters())
        assert weights > 50_000_000
        assert {parameter.dtype for parameter in unet.parameters()} == {dtype}
        assert rise < ALLOWED * weights
        # What is measured would show such a copy.
        torch.nn.Module.to(unet, torch.float32)
        assert _bytes("VmHWM") - before > ALLOWED * weights

    @pytest.mark.parametrize("middling", [torch.float16], ids=["stored fp16"], indirect=True)
    def test_keeps_no_page_of_the_weights_that_it_quantises(self, middling: Path) -> None:
        # In the type it is stored in, nothing but a copy takes a tensor off the file.
        load_base(middling, dtype=torch.float16, components={"unet"}, quantize="nf4")
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        mapped = _bytes("RssFile")
        unet = load_base(middling, dtype=torch.float16, components={"unet"}, quantize="nf4").unet
        assert sum(parameter.nbytes for parameter in unet.parameters()) > 25_000_000
        assert _bytes("RssFile") - mapped < 10_000_000


def _bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
