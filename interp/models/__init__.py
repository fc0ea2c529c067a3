"""Model access: the one package that knows transformer_lens."""

from transformer_lens.model_bridge import TransformerBridge as Model

from interp.models.hooks import hook_point, hooked, model_lock
from interp.models.load import load_model, load_tokenizer, model_names, parse_device, parse_dtype
from interp.models.provenance import describe_model
from interp.models.sites import Site, has_mlps, parse_site, resolve_site

__all__ = [
    "Model",
    "Site",
    "describe_model",
    "has_mlps",
    "hook_point",
    "hooked",
    "load_model",
    "load_tokenizer",
    "model_lock",
    "model_names",
    "parse_device",
    "parse_dtype",
    "parse_site",
    "resolve_site",
]
