"""Random codes: what a steered text is to be compared with."""

from collections.abc import Mapping, Sequence

import torch

from interp.bottlenecks.base import Bottleneck
from interp.models import Model
from interp.steering.steer import home_of
from interp.tasks.errors import InputError


def random_codes(
    model: Model, codebooks: Mapping[str, Bottleneck], codes: Sequence[tuple[str, int]], *, seed: int = 0
) -> list[tuple[str, int]]:
    """As many codes at the same sites, drawn at random from those that are not named; none twice at a site.

    Raises:
        InputError: a site without a codebook, or one of which no other codes are left.
    """
    generator = torch.Generator().manual_seed(seed)
    left: dict[str, list[int]] = {}
    for site in dict.fromkeys(site for site, _ in codes):
        named = [code for other, code in codes if other == site]
        n_codes = codebooks[home_of(model, codebooks, site)[0]].config.n_codes
        order = torch.randperm(n_codes, generator=generator).tolist()
        left[site] = [code for code in order if code not in named]
        if len(left[site]) < len(named):
            raise InputError(f"{len(named)} codes at {site}: too few of its {n_codes} are left for a control")
    return [(site, left[site].pop()) for site, _ in codes]
