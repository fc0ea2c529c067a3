"""Model access: the one package that knows transformer_lens."""

from transformer_lens.model_bridge import TransformerBridge as Model

from interp.models.hooks import HookFunction, hook_point, hooked, model_device, model_lock
from interp.models.load import OneModel, load_model, load_tokenizer, model_names, parse_device, parse_dtype
from interp.models.provenance import describe_model, weights_checksum, weights_digest
from interp.models.sites import Site, expand_sites, has_mlps, parse_site, resolve_site
