"""What a run's exactness depends on besides its configuration: processor, threads, processes, library versions; and
how much memory the process has held.

Knows nothing about the run. Records names and versions, never a variable's value: no secret can get in.
"""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

import torch

from contracts.rundir import Environment
from sdxl import attention

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy", "pillow")
OPTIONAL = ("bitsandbytes",)
"""Libraries that only some settings need."""


def describe_environment(device: torch.device, processes: int) -> Environment:
    """The environment this process trains in."""
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        processes=processes,
        device=device_name(device),
        versions={name: metadata.version(name) for name in LIBRARIES}
        | _installed(OPTIONAL)
        | ({"own attention": str(attention.VERSION)} if device.type == "cpu" else {}),
    )


def device_name(device: torch.device) -> str:
    """What the device is called: a GPU's model, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_bytes(device: torch.device) -> int | None:
    """Memory of a GPU; None of a processor, whose memory is shared with everything."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held so far on its device; on a CPU of main memory, all it loaded counted."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def differences(before: Environment, now: Environment) -> list[str]:
    """Each thing that differs, in words; an empty list means that a resume is exact."""
    found = [
        f"{name} was {getattr(before, name)}, is {getattr(now, name)}"
        for name in Environment.model_fields
        if name != "versions" and getattr(before, name) != getattr(now, name)
    ]
    for library in sorted(before.versions.keys() | now.versions.keys()):
        old, new = before.versions.get(library, "missing"), now.versions.get(library, "missing")
        if old != new:
            found.append(f"{library} was {old}, is {new}")
    return found


def _installed(names: Sequence[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in names if find_spec(name) is not None}
