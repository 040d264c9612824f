from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PINNED = """
from pathlib import Path
import torch
from trainer.freeing import give_back_memory

def held():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024

torch.ones(30, 1 << 18).numpy()          # freed at once: from now on the heap holds what is smaller
gone = [torch.ones(1 << 18) for _ in range(300)]
stays = [torch.ones(1000) for _ in range(300)]
full = held()
del gone
freed = held()
give_back_memory()
print(full, freed, held())
"""


class TestGivingMemoryBack:
    def test_what_the_heap_keeps_below_something_that_stays_goes_back_to_the_system(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PINNED], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
        )
        full, freed, given_back = (float(word) for word in done.stdout.split())
        assert full - freed < 50, "glibc gave it back by itself: this shows nothing"
        assert full - given_back > 250
