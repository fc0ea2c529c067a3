"""Bottlenecks: activations as integer codes, and back. Each line that imports a class registers it."""

from interp.bottlenecks.base import BOTTLENECKS, NO_CODE, Bottleneck, Codes, register
from interp.bottlenecks.codebook import Codebook, CodebookConfig
from interp.bottlenecks.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.bottlenecks.layer_norm_codebook import LayerNormCodebook
from interp.bottlenecks.metric_codebook import MetricCodebook

__all__ = [
    "BOTTLENECKS",
    "NO_CODE",
    "Bottleneck",
    "Codebook",
    "CodebookConfig",
    "Codes",
    "DiscreteSAE",
    "DiscreteSAEConfig",
    "LayerNormCodebook",
    "MetricCodebook",
    "register",
]
