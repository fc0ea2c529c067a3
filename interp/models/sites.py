"""Sites: where a bottleneck or a score sits, in the field's notation.

======== ==================================================== ====================
written  meaning                                              activation
======== ==================================================== ====================
``a5.h3`` z of head 3 of layer 5 (before W_O)                 batch pos d_head
``a5``    z of all heads of layer 5, one group per head       batch pos head d_head
``m2``    output of the MLP of layer 2                        batch pos d_model
``r4``    residual stream after layer 4                       batch pos d_model
======== ==================================================== ====================

``L5H3`` and the names of TransformerLens, ``blocks.5.attn.hook_z``, ``blocks.2.hook_mlp_out`` and
``blocks.4.hook_resid_post``, are read too; ``blocks.5.attn.hook_z.h3`` is one head.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from transformer_lens.model_bridge import TransformerBridge

from interp.errors import InputError
from interp.models.hooks import has_hook

_FORMS = [
    re.compile(form)
    for form in (
        r"a(?P<attn>\d{1,9})(\.h(?P<head>\d{1,9}))?|m(?P<mlp>\d{1,9})|r(?P<resid>\d{1,9})",
        r"L(?P<attn>\d{1,9})H(?P<head>\d{1,9})",
        r"blocks\.((?P<attn>\d{1,9})\.attn\.hook_z(\.h(?P<head>\d{1,9}))?"
        r"|(?P<mlp>\d{1,9})\.hook_mlp_out|(?P<resid>\d{1,9})\.hook_resid_post)",
    )
]


SiteKind = Literal["attn", "mlp", "resid"]


@dataclass(frozen=True, order=True)
class Site:
    """A parsed site; ``str(site)`` gives back the notation."""

    kind: SiteKind
    layer: int
    head: int | None = None

    def __str__(self) -> str:
        letter = {"attn": "a", "mlp": "m", "resid": "r"}[self.kind]
        return f"{letter}{self.layer}" + ("" if self.head is None else f".h{self.head}")

    @property
    def hook(self) -> str:
        """Name of the hook at which the site's activation passes."""
        suffix = {"attn": "attn.hook_z", "mlp": "hook_mlp_out", "resid": "hook_resid_post"}[self.kind]
        return f"blocks.{self.layer}.{suffix}"

    @property
    def order(self) -> tuple[int, int]:
        """When it is passed in a forward: of two sites the smaller one is read first, heads of a layer at once."""
        return self.layer, get_args(SiteKind).index(self.kind)


def parse_site(text: str) -> Site:
    """Read a site in any of the notations."""
    match = next(filter(None, (form.fullmatch(str(text).strip()) for form in _FORMS)), None)
    if match is None:
        raise InputError(f"unknown site {text!r}: write a5.h3 (a head), a5 (all heads), m2 (an MLP) or r4")
    fields = match.groupdict()
    kind = next(kind for kind in get_args(SiteKind) if fields.get(kind) is not None)
    head = fields.get("head")
    return Site(kind, int(fields[kind]), None if head is None else int(head))


def canonical_site(text: str) -> str:
    """A site in the short notation; what is no site, such as one group of an MLP's codebook, as it is."""
    try:
        return str(parse_site(text))
    except InputError:
        return text


def resolve_site(model: TransformerBridge, text: str) -> Site:
    """Parse a site and check that the model has it."""
    site = parse_site(text)
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    known = site.layer < layers and (site.head is None or site.head < heads) and has_hook(model, site.hook)
    if not known:
        sites = f"a0–a{layers - 1} (heads h0–h{heads - 1})"
        if has_mlps(model):
            sites += f", m0–m{layers - 1}"
        raise InputError(f"the model has no site {text!r}: it has {sites}, r0–r{layers - 1}")
    return site


def expand_sites(model: TransformerBridge, patterns: Iterable[str]) -> list[Site]:
    """The sites that patterns name, in the order of the forward pass, each once: a site, one with the wildcards of file
    names (``a*``, ``m1?``), or a group, ``heads`` (``a*``) or ``mlps`` (``m*``)."""
    layers = range(model.cfg.n_layers)
    letters = "amr" if has_mlps(model) else "ar"
    every = [f"{letter}{layer}" for layer in layers for letter in letters]
    sites: set[Site] = set()
    for pattern in patterns:
        if pattern == "mlps" and not has_mlps(model):
            raise InputError("sites mlps: this model has attention only; choose heads, or sites such as r1")
        pattern = {"heads": "a*", "mlps": "m*"}.get(pattern, pattern)
        # a wildcard in place of the letter would put codes upon codes
        names = (fnmatch.filter(every, pattern) if pattern[:1] in letters else ()) or [pattern]
        sites |= {resolve_site(model, name) for name in names}
    for site in sites:
        if site.head is not None and Site("attn", site.layer) in sites:
            raise InputError(f"sites {site} and a{site.layer}: the second holds the first; choose one")
    return sorted(sites, key=lambda site: (site.order, site.head or 0))


def has_mlps(model: TransformerBridge) -> bool:
    """Whether MLP outputs exist: attention-only models register the hook on some versions but never fire it."""
    return not model.cfg.attn_only and has_hook(model, "blocks.0.hook_mlp_out")


def components(model: TransformerBridge, *, mlps: bool) -> list[Site]:
    """All heads in reading order, then the MLPs if they are asked for and there are some."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    sites = [Site("attn", layer, head) for layer in layers for head in heads]
    return sites + [Site("mlp", layer) for layer in layers if mlps and has_mlps(model)]
