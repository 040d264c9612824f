"""Ten thousand pictures: adding one encodes one, memory does not grow with them, two processes may fill one cache."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from contracts.buckets import Bucket
from contracts.dataset import VersionRow
from tests.trainer.tiny import command, environment, make_pictures, make_recipe, same, weights_of
from trainer.feed import Views
from trainer.latents import cached_latents
from trainer.processes import Processes
from trainer.shards import Shards

MANY = 10_000
ALONE = Processes(0, 1, torch.device("cpu"))
VIEWS = Views((Bucket(64, 64),))


def row(number: int) -> VersionRow:
    return VersionRow(image=f"{number:064x}", original_width=64, original_height=64, source_name=f"{number}.png")


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG", compress_level=1)
    return held.getvalue()


def test_adding_one_picture_to_ten_thousand_calls_the_vae_once(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [VIEWS.of(row(number)) for number in range(MANY + 1)]
    latent = {"mean": torch.zeros(4, 8, 8), "variance": torch.ones(4, 8, 8)}
    shards = Shards(tmp_path / "latents" / "vae-fp32")
    for start in range(0, MANY, 1000):
        shards.add((view.key, latent) for view in views[start : start + 1000])
    encoded: list[torch.Tensor] = []
    encode = AutoencoderKL.encode
    monkeypatch.setattr(AutoencoderKL, "encode", lambda self, x: encoded.append(x) or encode(self, x))
    picture = png(np.full((64, 64, 3), 200, dtype=np.uint8))
    latents = cached_latents(tmp_path, base_dir, "vae", views, lambda image: picture, ALONE, lambda *_: False)
    assert len(encoded) == 1
    assert torch.equal(latents(views[0])[0], latent["mean"])
    assert latents(views[MANY])[0].std() > 0
    cached_latents(tmp_path, base_dir, "vae", views, lambda image: picture, ALONE, lambda *_: False)
    assert len(encoded) == 1


@pytest.mark.slow
def test_two_processes_fill_one_cold_cache_at_once(base_dir: Path, tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", train=40, held_out=2)
    quiet = {"preview__prompts": [], "held_out__every_steps": None, "checkpoint__every_steps": None}
    recipe = make_recipe(tmp_path / "r.yaml", base_dir, pictures, steps=2, **quiet)
    started = [
        subprocess.Popen([sys.executable, *command(recipe, tmp_path / name, tmp_path / "cache")], env=environment())
        for name in ("one", "two")
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path.name for path in files if path.name.startswith(".tmp-")]
    (latents,) = (tmp_path / "cache" / "latents").iterdir()
    assert len(Shards(latents)._where) == 40 * 2 + 2


EPOCH = """
import sys, torch
from pathlib import Path
from rich.console import Console
from contracts.rundir import RunDir
from trainer.control import listening
from trainer.identify import identify
from trainer.parts import Job, gather
from trainer.processes import join
from trainer.recipe import read_recipe
from trainer.report import Report
from trainer import latents
from trainer.images import decode

def entry(self, view):
    decode(self._read(view.image))
    return {"mean": torch.zeros(4, 8, 8), "variance": torch.ones(4, 8, 8)}

# Ten thousand passes of the VAE would take minutes and keep nothing.
latents._LiveLatents.entry = entry
torch.set_num_threads(1)
job = Job(read_recipe(Path(sys.argv[1])), Path(sys.argv[2]), use_cache=True)
processes, report = join(), Report()
with listening(RunDir(Path(sys.argv[3])), watches_files=True) as requests:
    parts = gather(job, identify(job, processes, report), processes, requests, report)
    seen = 0
    for batch in parts.schedule.epoch(0):
        seen += len(parts.feed(1, batch.samples).latents)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(seen, peak)
"""
"""Reads, caches and feeds a whole epoch, everything but the networks' passes; prints samples and peak RSS in kB."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forty_times_the_pictures_take_no_more_memory(base_dir: Path, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    peaks = {}
    for count in (MANY // 40, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            pixels = drawn.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            (folder / f"{number:05}.png").write_bytes(png(pixels))
        lines = [{"file_name": f"{n:05}.png", "text": f"picture {n % 50}", "split": "train"} for n in range(count)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        recipe = make_recipe(tmp_path / f"{count}.yaml", base_dir, folder, batch_size=8, data__flip=False)
        words = ["-c", EPOCH, str(recipe), str(tmp_path / f"cache-{count}"), str(tmp_path / "run")]
        done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        seen, peaks[count] = map(int, done.stdout.split()[-2:])
        assert seen == count
    grown_mb = (peaks[MANY] - peaks[MANY // 40]) / 1024
    # The pixels alone are 114 MB more; what is kept of each is its row, its name and where its latent lies.
    assert grown_mb < 60, peaks
