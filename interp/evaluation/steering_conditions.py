"""What steering by codes is compared with: differences of means, as vectors that codebooks of one code add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models import Model, hooked, model_device, parse_site, resolve_site
from interp.steering.texts import BATCH_SIZE, tokenize


@dataclass(frozen=True)
class SiteMeans:
    """Mean activations over the tokens of texts, BOS left out, by site: [d_in], of a layer's heads [head, d_head]."""

    positive: Mapping[str, Tensor]
    negative: Mapping[str, Tensor]

    def difference(self, site: str) -> Float[Tensor, " d_in"]:
        """Mean over positive minus mean over negative texts: the vector of contrastive activation addition (Rimsky
        et al. 2023, arXiv 2312.06681), from unpaired texts."""
        return _at(self.positive, site) - _at(self.negative, site)


@torch.no_grad()
def means_of_texts(model: Model, sites: Sequence[str], positive: Sequence[str], negative: Sequence[str]) -> SiteMeans:
    """Means at sites, of a head those of its layer's heads, in one forward pass over the texts."""
    device = model_device(model)
    names = {site.partition(".")[0] for site in sites}
    places = {name: resolve_site(model, name) for name in sorted(names)}
    means = []
    for texts in (positive, negative):
        tokenized = tokenize(model, texts)
        totals: dict[str, Tensor] = {}

        def add(site: str, counted: Tensor, totals: dict[str, Tensor], x: Tensor) -> None:
            total = (x.float() * counted[(..., *[None] * (x.ndim - 2))]).sum((0, 1)).cpu()
            totals[site] = totals.get(site, 0) + total

        for tokens, counted in zip(
            tokenized.tokens.split(BATCH_SIZE), tokenized.counted.split(BATCH_SIZE), strict=True
        ):
            mask = counted.to(device)
            hooks = {place.hook: partial(add, site, mask, totals) for site, place in places.items()}
            with hooked(model, hooks):
                model(tokens.to(device))
        means.append({site: total / tokenized.counted.sum() for site, total in totals.items()})
    return SiteMeans(*means)


def _at(means: Mapping[str, Tensor], site: str) -> Float[Tensor, " d_in"]:
    place = parse_site(site)
    return means[site] if place.head is None else means[f"a{place.layer}"][place.head]
