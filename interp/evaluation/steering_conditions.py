"""What steering by codes is compared with: differences of means, as vectors that codebooks of one code add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models import Model, model_device, parse_site, resolve_site
from interp.steering.texts import batches, tokenize, watched


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
    places = {name: resolve_site(model, name) for name in sorted({site.partition(".")[0] for site in sites})}
    means = []
    for texts in (tokenize(model, positive), tokenize(model, negative)):
        totals: dict[str, Tensor] = {}
        for tokens, counted in batches(texts):
            with watched(model, places) as seen:
                model(tokens.to(model_device(model)))
            for name, place in places.items():
                total = seen[place.hook].float().cpu()[counted].sum(0)
                totals[name] = totals[name] + total if name in totals else total
        means.append({name: total / texts.counted.sum() for name, total in totals.items()})
    return SiteMeans(*means)


def _at(means: Mapping[str, Tensor], site: str) -> Float[Tensor, " d_in"]:
    place = parse_site(site)
    return means[site] if place.head is None else means[f"a{place.layer}"][place.head]
