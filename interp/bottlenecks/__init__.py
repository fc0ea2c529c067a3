"""Bottlenecks: activations as integer codes, and back."""

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes, register
from interp.bottlenecks.codebook import Codebook, CodebookConfig
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.bottlenecks.layer_norm_codebook import LayerNormCodebook
from interp.bottlenecks.metric_codebook import MetricCodebook

__all__ = [
    "NO_CODE",
    "Bottleneck",
    "Codebook",
    "CodebookConfig",
    "Codes",
    "Dictionary",
    "DiscreteSAE",
    "DiscreteSAEConfig",
    "LayerNormCodebook",
    "MetricCodebook",
    "register",
]
