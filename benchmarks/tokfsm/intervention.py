"""Setting codes so that the model goes on from another state: normalised Jensen–Shannon divergence.

A sequence ends in state A; at its last token the codes of some sites are replaced by those of another sequence of the
same length, which ends in state B. The divergence from what the model predicts for that sequence, averaged over pairs,
is divided by that without any replacement: 1 is no effect, 0 complete success.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.tokfsm.coded import Books
from benchmarks.tokfsm.data import N_CTX, Machine, encode, generator_of, walk
from benchmarks.tokfsm.neox import NeoX

PAIRS = 500
PREFIXES = tuple(range(2, N_CTX // 2 - 2, 4))
"""States before the last one; pairs share these lengths out, so that a length is one batch."""
INTERVENED = 103


def groups(sites: list[str]) -> dict[str, list[str]]:
    """The sets of sites that are set together, by name."""
    heads, mlps = ([s for s in sites if s.startswith(kind)] for kind in "am")
    single = {site: [site] for site in sites}
    return {"none": [], **single, "all attention": heads, "all MLP": mlps, "all": sites}


def jensen_shannon(p: Float[Tensor, "*batch token"], q: Float[Tensor, "*batch token"]) -> Tensor:
    """Divergence in nats, of each pair of distributions."""
    middle = ((p + q) / 2).clamp(min=1e-30).log()
    return sum((torch.special.xlogy(r, r) - r * middle).sum(-1) for r in (p, q)) / 2


@torch.no_grad()
def divergences(
    model: NeoX,
    books: Books,
    tokens: Int[Tensor, "pair pos"],
    target: Int[Tensor, "pair pos"],
    *,
    shuffled: bool = False,
) -> dict[str, Float[Tensor, " pair"]]:
    """Of each pair from what the target predicts, by the set of sites set.

    Args:
        shuffled: set the codes of another pair's target instead, the control for disturbance as such.
    """
    device = model.rotary.device
    tokens, target = tokens.to(device), target.to(device)
    running = books.run()
    aim = model(target, running)[:, -1].softmax(-1)
    given = {site: ids[:, -1] for site, ids in running.ids.items()}
    if shuffled:
        given = {site: ids.roll(1, 0) for site, ids in given.items()}
    divergence_by_group = {}
    for name, sites in groups(list(books)).items():

        def edit(site: str, ids: Tensor, sites: list[str] = sites) -> Tensor:
            if site in sites:
                ids = ids.clone()
                ids[:, -1] = given[site]
            return ids

        probs = model(tokens, books.run(edit))[:, -1].softmax(-1)
        divergence_by_group[name] = jensen_shannon(probs, aim).cpu()
    return divergence_by_group


def pairs(machine: Machine, n: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Sequences and targets in batches of one length, each ending with the second digit of a state."""
    generator = generator_of(seed, INTERVENED)
    sizes = torch.bincount(torch.arange(n) % len(PREFIXES), minlength=len(PREFIXES)).tolist()
    made = []
    for length, size in zip(PREFIXES, sizes, strict=True):
        if size:
            states = walk(machine, 2 * size, generator, length + 1)
            made.append(tuple(encode(states).split(size)))
    return made


def normalised(
    model: NeoX, books: Books, machine: Machine, *, n: int = PAIRS, seed: int = 0, shuffled: bool = False
) -> dict[str, float]:
    """Mean divergence over mean divergence without intervention, by the set of sites set."""
    parts = [divergences(model, books, *batch, shuffled=shuffled) for batch in pairs(machine, n, seed)]
    means = {name: float(torch.cat([part[name] for part in parts]).mean()) for name in parts[0]}
    return {name: value / max(means["none"], 1e-12) for name, value in means.items()}
