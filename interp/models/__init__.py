"""Model access: the one package that knows transformer_lens."""

from transformer_lens.model_bridge import TransformerBridge as Model

from interp.models.hooks import HookFunction, hook_point, hooked, model_device, model_lock
from interp.models.load import OneModel, load_model, load_tokenizer, model_names, parse_device, parse_dtype
from interp.models.provenance import describe_model, weights_checksum, weights_digest
from interp.models.sites import Site, expand_sites, has_mlps, parse_site, resolve_site

__all__ = [
    "HookFunction",
    "Model",
    "OneModel",
    "Site",
    "describe_model",
    "expand_sites",
    "has_mlps",
    "hook_point",
    "hooked",
    "load_model",
    "load_tokenizer",
    "model_device",
    "model_lock",
    "model_names",
    "parse_device",
    "parse_dtype",
    "parse_site",
    "resolve_site",
    "weights_checksum",
    "weights_digest",
]
