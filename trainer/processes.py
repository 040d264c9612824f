"""The processes of one run: which of them this is, its device, and the few things they say to each other.

Started by anything that sets torch's rendezvous variables: `accelerate launch`, torchrun, or nothing at all.
Gradients are summed plainly, so that two ranks add the same two numbers as two accumulated micro-batches do.
Knows nothing about training.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import PartialState
from torch import distributed

from contracts.failures import FieldError, InvalidInput

WAIT = timedelta(hours=24)
"""How long ranks wait for one that encodes or makes previews; a rank that died is noticed by the launcher."""
BUCKET_ELEMENTS = 1 << 26
"""Elements summed in one call: bounds the memory of the reduction."""
UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}


@dataclass(frozen=True)
class Processes:
    """This process among the run's."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all processes, in place; half precision is added in fp32 and rounded once."""
        if self.count > 1:
            for part in tensor.view(-1).split(BUCKET_ELEMENTS):
                summed = part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
                distributed.all_reduce(summed)
                if summed is not part:
                    part.copy_(summed)
        return tensor

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.count == 1:
            return value
        holder = [value if self.is_main else None]
        distributed.broadcast_object_list(holder, src=0, device=self.device if self.device.type == "cuda" else None)
        return holder[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()


def join() -> Processes:
    """Take this process's place in the run.

    Raises:
        InvalidInput: the launcher asks for a way of distributing that this trainer does not do.
    """
    for variable, name in UNSUPPORTED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true"):
            raise InvalidInput(
                [
                    FieldError(
                        pointer="", message=f"{name} is not supported: adapters are small, every rank holds the base"
                    )
                ],
                message="The trainer cannot be launched like this.",
                hint="Launch with configs/accelerate/multi-gpu.yaml.",
            )
    forced = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
    state = PartialState(cpu=forced or not torch.cuda.is_available(), timeout=WAIT)
    return Processes(state.process_index, state.num_processes, state.device)


def leave() -> None:
    """Give up the connection to the other processes, when there are any."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
