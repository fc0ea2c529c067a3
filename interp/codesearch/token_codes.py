"""The codes of one text at all sites, and how clearly each was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Dictionary
from interp.bottlenecks.attach import attach, groups_at
from interp.codesearch.firing_stats import FiringStatsWrapper
from interp.codesearch.layout import names_of_groups
from interp.errors import InputError
from interp.models import Model, model_device, resolve_site


@dataclass(frozen=True)
class TokenCodes:
    """The codes of a text at one head, or at another site with one code book."""

    ids: Int[np.ndarray, "pos k"]  # −1 where a slot is empty
    # similarity, margin: see `codesearch.firing_stats`
    similarity: Float[np.ndarray, "pos k"]
    margin: Float[np.ndarray, "pos k"]


@torch.no_grad()
def read_codes(
    model: Model, codebooks: Mapping[str, Dictionary], tokens: Int[Tensor, " pos"], *, error_term: bool = True
) -> dict[str, TokenCodes]:
    """Codes by site, heads apart (``a5.h3``), in one forward pass. ``tokens``: with BOS, where the model has one.
    ``error_term``: codes of the plain model; without it those of the model with all codebooks in place."""
    if not 1 <= len(tokens) <= model.cfg.n_ctx:
        raise InputError(f"a text of {len(tokens)} tokens: the model reads 1 to {model.cfg.n_ctx}")
    wrappers = {site: FiringStatsWrapper(book) for site, book in codebooks.items()}
    with attach(model, wrappers, error_term=error_term):
        model(tokens[None].to(model_device(model)))
    codes: dict[str, TokenCodes] = {}
    for site, book in wrappers.items():
        # heads that share a book lie among the rows
        parts = [part.reshape(len(tokens), -1, book.config.k).cpu().numpy() for part in book.seen[:3]]
        names = names_of_groups(site, groups_at(model, resolve_site(model, site), book))
        codes |= {name: TokenCodes(*(part[:, i] for part in parts)) for i, name in enumerate(names)}
    return codes
