"""Random codes: what a steered text is to be compared with."""

from collections.abc import Mapping, Sequence

import torch

from interp.bottlenecks.base import Bottleneck
from interp.models import Model
from interp.steering.edits import WeightedCode
from interp.steering.steer import home_of
from interp.tasks.errors import InputError


def random_codes(
    model: Model, codebooks: Mapping[str, Bottleneck], codes: Sequence[WeightedCode], *, seed: int = 0
) -> list[WeightedCode]:
    """As many codes at the same sites with the same weights, drawn at random from those that are not named; none twice
    at a site.

    Raises:
        InputError: a site without a codebook, or one of which no other codes are left.
    """
    generator = torch.Generator().manual_seed(seed)
    left: dict[str, list[int]] = {}
    for site in dict.fromkeys(code.site for code in codes):
        named = [code.code for code in codes if code.site == site]
        n_codes = codebooks[home_of(model, codebooks, site)[0]].config.n_codes
        order = torch.randperm(n_codes, generator=generator).tolist()
        left[site] = [code for code in order if code not in named]
        if len(left[site]) < len(named):
            raise InputError(f"{len(named)} codes at {site}: too few of its {n_codes} are left for a control")
    return [code._replace(code=left[code.site].pop()) for code in codes]
