"""Bottlenecks: activations as integer codes, and back."""

import importlib
from typing import Any

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes, register

# the kinds load when they are asked for
_KINDS = {
    "Dictionary": "dictionary",
    "Codebook": "kinds.codebook",
    "CodebookConfig": "kinds.codebook",
    "DiscreteSAE": "kinds.discrete_sae",
    "DiscreteSAEConfig": "kinds.discrete_sae",
    "LayerNormCodebook": "kinds.layer_norm_codebook",
    "MetricCodebook": "kinds.metric_codebook",
}


def __getattr__(name: str) -> Any:
    if name not in _KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_KINDS[name]}"), name)
