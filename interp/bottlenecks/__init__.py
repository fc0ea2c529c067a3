"""Bottlenecks: activations as integer codes, and back. A kind's module is loaded when its class is asked for."""

import importlib
from typing import TYPE_CHECKING, Any

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes, register

if TYPE_CHECKING:
    from interp.bottlenecks.codebook import Codebook, CodebookConfig
    from interp.bottlenecks.dictionary import Dictionary
    from interp.bottlenecks.discrete_sae import DiscreteSAE, DiscreteSAEConfig
    from interp.bottlenecks.layer_norm_codebook import LayerNormCodebook
    from interp.bottlenecks.metric_codebook import MetricCodebook

_KINDS = {
    "Codebook": "codebook",
    "CodebookConfig": "codebook",
    "Dictionary": "dictionary",
    "DiscreteSAE": "discrete_sae",
    "DiscreteSAEConfig": "discrete_sae",
    "LayerNormCodebook": "layer_norm_codebook",
    "MetricCodebook": "metric_codebook",
}
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


def __getattr__(name: str) -> Any:
    if name not in _KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_KINDS[name]}"), name)
