"""Training fitted codebooks with gradients, see docs/training.md."""

from interp.training.config import TrainConfig
from interp.training.run import train_codebooks
from interp.training.settling import settle
from interp.training.trainer import StepResult, Trainer

__all__ = ["StepResult", "TrainConfig", "Trainer", "settle", "train_codebooks"]
