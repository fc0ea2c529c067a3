"""Where a model is."""

import torch
from torch import nn


def model_device(model: nn.Module) -> torch.device:
    """The device of its first parameter: a model is on one."""
    return next(model.parameters()).device
