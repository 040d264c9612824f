"""SDXL's true size with random weights: what can be proved of the real thing without its weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

GENERATE = """
import json, resource, sys
from pathlib import Path
import torch
from inference.engine import Engine, EngineRequest
engine = Engine(Path(sys.argv[1]), dtype=torch.bfloat16)
(pictures,) = engine.generate([EngineRequest("red heart", (1,), 256, 256, steps=2)])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"shape": pictures[0].shape, "spread": float(pictures[0].std()), "peak_bytes": peak}))
"""


@pytest.mark.full
class TestFullSize:
    def test_two_steps_at_256_px_fit_in_16_gb(self, tmp_path):
        base = tmp_path / "sdxl"
        subprocess.run([sys.executable, "-m", "benchmarks.random_sdxl", str(base)], check=True)
        done = subprocess.run([sys.executable, "-c", GENERATE, str(base)], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["shape"] == [256, 256, 3]
        assert found["spread"] > 1
        assert found["peak_bytes"] < 16e9
