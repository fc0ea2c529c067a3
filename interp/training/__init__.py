"""Training fitted codebooks with gradients, see benchmarks/REPORT.md."""

from interp.training.centroid_refit import refit_centroids
from interp.training.config import TrainConfig
from interp.training.run import train_codebooks
from interp.training.trainer import StepResult, Trainer
