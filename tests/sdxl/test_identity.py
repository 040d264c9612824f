from __future__ import annotations

import shutil

import torch
from safetensors.torch import load_file, save_file

from sdxl.base import identity

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


class TestIdentity:
    def test_agrees_between_a_folder_and_a_single_file_of_the_same_weights(self, tiny_base, tiny_single_file):
        assert identity(tiny_base) == identity(tiny_single_file, config_dir=tiny_base)

    def test_does_not_depend_on_the_precision_the_weights_are_kept_in(self, tiny_base, tmp_path):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        save_file({key: tensor.float() for key, tensor in load_file(folder / UNET).items()}, folder / UNET)
        assert identity(folder) == identity(tiny_base)

    def test_changes_with_any_tensor_and_tells_the_vae_apart(self, tiny_base, tmp_path):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        base, vae = identity(tiny_base)
        _nudge(folder / VAE)
        assert identity(folder)[0] == base
        assert identity(folder)[1] != vae
        _nudge(folder / UNET)
        assert identity(folder)[0] != base

    def test_is_remembered_for_a_file_and_forgotten_when_the_file_changes(self, tiny_base, tmp_path):
        folder, cache = tmp_path / "base", tmp_path / "cache"
        shutil.copytree(tiny_base, folder)
        first = identity(folder, cache_dir=cache)
        (remembered,) = cache.iterdir()
        remembered.write_text('{"base": "from the cache", "vae": "too"}')
        assert identity(folder, cache_dir=cache) == ("from the cache", "too")
        _nudge(folder / UNET)
        changed = identity(folder, cache_dir=cache)
        assert changed[0] not in (first[0], "from the cache")


def _nudge(path) -> None:
    state = load_file(path)
    next(t for t in state.values() if t.is_floating_point()).view(-1)[0] += torch.tensor(0.5)
    path.unlink()
    save_file(state, path)
