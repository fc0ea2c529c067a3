"""What steering by codes is compared with.

==================================  =============================================================================
arm                                 what is done
==================================  =============================================================================
base                                nothing
codes                               the codes found from the topic's texts are added, with their weights
half of the codes                   those half of ``codes`` that raise most what they say (their output score)
gated codes                         ``codes``, only where a gate is open (:mod:`interp.bottlenecks.gates`)
following codes                     the same, as far as they are there already (``when="firing"``)
wrong topic                         the cell ``codes`` of the next topic, counted for this one's words
mean difference, residual           difference of the means over positive and negative texts, after one layer
mean difference, heads              the same at all heads at which it raises the target's log p to first order
mean difference, same heads         the same at the heads of ``codes``
random codes                        other codes of the same heads with the same weights
random vectors                      vectors of random direction at the same heads, each as long as what ``codes`` adds
prompt                              nothing is edited: the prompt says what is wanted
prompt and codes                    the prompt says it, and ``codes`` are added
==================================  =============================================================================

The dose is a factor of all that is added. All arms act at the same positions with the same seeds. Means and codes are
of the same texts. A prompt has no dose, and its texts are judged as if they went on from the prompt alone.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig
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
def means_of_texts(
    model: Model, sites: Sequence[str], positive: Sequence[str], negative: Sequence[str]
) -> SiteMeans:
    """Means at sites, of a head those of its layer's heads, in one forward pass over the texts."""
    device = model_device(model)
    names = {site.partition(".")[0] for site in sites}
    places = {name: resolve_site(model, name) for name in sorted(names)}
    found = []
    for texts in (positive, negative):
        tokenized = tokenize(model, texts)
        totals: dict[str, Tensor] = {}

        def add(site: str, counted: Tensor, totals: dict[str, Tensor], x: Tensor) -> None:
            total = (x.float() * counted[(..., *[None] * (x.ndim - 2))]).sum((0, 1)).cpu()
            totals[site] = totals.get(site, 0) + total

        for tokens, counted in zip(
            tokenized.tokens.split(BATCH_SIZE), tokenized.counted.split(BATCH_SIZE), strict=True
        ):
            there = counted.to(device)
            hooks = {place.hook: partial(add, site, there, totals) for site, place in places.items()}
            with hooked(model, hooks):
                model(tokens.to(device))
        found.append({site: total / tokenized.counted.sum() for site, total in totals.items()})
    return SiteMeans(*found)


def vector_books(model: Model, vectors: Mapping[str, Tensor]) -> dict[str, Codebook]:
    """Codebooks of one code each, a vector, so that ``AddCode(site, 0)`` adds it; heads of a layer in one."""
    device = model_device(model)
    books: dict[str, Codebook] = {}
    for site, vector in vectors.items():
        place = parse_site(site)
        name = site if place.head is None else f"a{place.layer}"
        if name not in books:
            groups = 1 if place.head is None else model.cfg.n_heads
            book = Codebook(CodebookConfig(d_in=len(vector), n_codes=1, groups=groups)).to(device)
            book.requires_grad_(False).codes.zero_()
            books[name] = book
        books[name].codes[place.head or 0, 0] = vector.to(device)
    return books


def _at(means: Mapping[str, Tensor], site: str) -> Float[Tensor, " d_in"]:
    place = parse_site(site)
    return means[site] if place.head is None else means[f"a{place.layer}"][place.head]


WRONG = "wrong topic"
ARMS = (
    "codes",
    "half of the codes",
    "gated codes",
    "following codes",
    "mean difference, residual",
    "mean difference, heads",
    "mean difference, same heads",
    "random codes",
    "random vectors",
    "prompt",
    "prompt and codes",
)
"""Those that are run for every topic."""
VECTORS = ("mean difference, residual", "mean difference, heads", "prompt")
"""Those that no codebook has a part in."""
BLIND = ("mean difference, residual", "prompt")
"""Those that do not depend on how codes, or the target, are found."""


AtDose = Callable[[float], AbstractContextManager]


@dataclass(frozen=True)
class SteeringCondition:
    """
    Attributes:
        at: what the model runs within, at a dose.
        first: the dose to try first, 0 where there is none.
        said: what a prompt becomes.
    """

    name: str
    at: AtDose
    first: float
    said: Callable[[str], str] | None = None
