"""Sums over the processes of a training run; where there is one process they are what went in."""

import torch
import torch.distributed as dist
from torch import Tensor


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, which is the same on each."""
    if _several():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gathered(tensor: Tensor, dim: int = 0) -> Tensor:
    """What all processes have, joined in their order; shapes must agree."""
    if not _several():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim)
