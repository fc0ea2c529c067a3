"""Processes that train together, as ``torchrun`` starts them; where there is one, each function gives what went in.

Each has the whole model and all codes, and an equal share of every batch. Gradients and the statistics of a batch are
averaged over all, counts are summed, and what is drawn is drawn from the same numbers. So all have the same codes after
every step, and another number of processes can go on from a checkpoint. DistributedDataParallel would wrap the model
that hooks are attached to, and knows nothing of codes.
"""

import atexit
import os
import sys
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from interp.errors import InputError
from interp.models import Model

PATIENCE = timedelta(days=1)
"""For which processes wait for the first, which refits centroids and writes for all. One that ends ends all."""


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the one that writes files."""
    return world() == 1 or dist.get_rank() == 0


def wait() -> None:
    """Until all are here."""
    if world() > 1:
        dist.barrier()


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, which is the same on each."""
    if world() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def averaged(tensor: Tensor) -> Tensor:
    return summed(tensor) / world()


def gathered(tensor: Tensor, dim: int = 0) -> Tensor:
    """What all processes have, joined in their order; shapes must agree."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim)


def share_of(batch: Int[Tensor, " block"]) -> Int[Tensor, " some"]:
    """This process's part; in the order of processes the parts are the batch."""
    return batch if world() == 1 else batch.chunk(world())[dist.get_rank()]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Of equal shares of a batch: then they are the gradients of the mean over all of it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world() == 1 or not gradients:
        return
    flat = averaged(torch.cat([gradient.flatten().float() for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def join_torchrun(device: str | None) -> str | None:
    """Meet the other processes that ``torchrun`` has started, until this one ends, and give this one's device: by NCCL
    on GPUs, else by gloo. Only the first of them prints."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "nccl" if device and device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)
    if not first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    return device


def check_whole(model: Model) -> None:
    """Refuse a model whose weights are shared out over processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed.tensor import DTensor

    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise InputError(
            "the model's weights are sharded (FSDP): codes are read and set in whole activations, so load it whole in "
            "each process"
        )
