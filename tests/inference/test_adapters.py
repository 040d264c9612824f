from __future__ import annotations

import pytest
import torch

from contracts.failures import PatinaError
from inference.adapters import AdapterCache
from sdxl.base import load_base
from sdxl.lora import serve


@pytest.fixture
def bank(tiny_base):
    return serve(load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet)


@pytest.fixture
def one_adapter_bytes(shapes) -> int:
    return sum(4 * sum(pair) * 4 for pair in shapes.values())


class TestAdapterCache:
    def test_the_least_recently_used_leaves_first(self, bank, make_adapter, one_adapter_bytes):
        cache = AdapterCache(bank, max_bytes=2 * one_adapter_bytes)
        files = {key: make_adapter(seed) for seed, key in enumerate("abc")}
        for key in ("a", "b", "a", "c"):
            cache.hold(key, files[key])
        assert cache.keys == ("a", "c")
        assert bank.names == {"a", "c"}
        assert cache.held_bytes == 2 * one_adapter_bytes

    def test_what_a_batch_needs_stays_even_over_the_bound(self, bank, make_adapter, one_adapter_bytes):
        cache = AdapterCache(bank, max_bytes=one_adapter_bytes)
        for seed, key in enumerate("ab"):
            cache.hold(key, make_adapter(seed), needed={"a", "b"})
        assert bank.names == {"a", "b"}
        cache.hold("c", make_adapter(2), needed={"c"})
        assert bank.names == {"c"}

    def test_a_held_adapter_is_not_read_again(self, bank, make_adapter):
        cache, path = AdapterCache(bank, max_bytes=2**30), make_adapter(0)
        cache.hold("a", path)
        path.unlink()
        cache.hold("a", path)
        assert cache.keys == ("a",)

    def test_a_bad_file_evicts_nothing(self, bank, make_adapter, one_adapter_bytes, tmp_path):
        cache = AdapterCache(bank, max_bytes=one_adapter_bytes)
        cache.hold("a", make_adapter(0))
        (tmp_path / "bad.safetensors").write_bytes(b"no")
        with pytest.raises(PatinaError):
            cache.hold("b", tmp_path / "bad.safetensors")
        assert cache.keys == ("a",)
        assert bank.names == {"a"}
