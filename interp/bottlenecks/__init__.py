"""Bottlenecks: activations as integer codes, and back."""

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes, register
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.bottlenecks.kinds.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.bottlenecks.kinds.layer_norm_codebook import LayerNormCodebook
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook

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
