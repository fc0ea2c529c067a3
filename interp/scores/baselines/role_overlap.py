"""Code overlap with one small codebook per head and role, beside the published count (:mod:`.overlap`).

1. At every role (END where prompts share none) each head has a book of its own: k-means of its z on all prompts.
2. score(head) = max over roles of Σ p(code, side) log2 (p(code, side) / (p(code) / 2)), the mutual information of code
   and side in bits: 0 where codes are as frequent on clean as on corrupt prompts, 1 where no code is on both.

When it misleads: it tells what a head carries, not what is read, so interventions still have to choose. It has no sign.
Heads that see a word or a template that differs between the sides score high. Heads that write one of many words hide
in few codes; many codes want many pairs.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.means import HeadMeans, role_positions
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.errors import InputError
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class RoleOverlapConfig(MethodConfig):
    n_codes: Annotated[int, Ge(1)] = 4  # of each book; at least as many pairs are needed
    seed: Annotated[int, Ge(0)] = 0  # of k-means


def code_ids(
    z: Float[Tensor, "side pair role layer head d_head"], n_codes: int, seed: int
) -> Int[np.ndarray, "side pair role layer head"]:
    """The code of every head at every role; books of all heads and roles are fitted together."""
    if z.shape[1] < n_codes:
        raise InputError(f"{z.shape[1]} pairs for {n_codes} codes: give at least one pair a code")
    vectors = z.flatten(2, 4).flatten(0, 1)
    groups, d_head = vectors.shape[1:]
    config = CodebookConfig(d_head, n_codes, groups=groups, selection="matching_pursuit", seed=seed)
    return Codebook(config).fit(vectors).encode(vectors).ids.reshape(z.shape[:-1]).numpy()


def side_information(
    ids: Int[np.ndarray, "side pair role layer head"], n_codes: int
) -> Float[np.ndarray, "role layer head"]:
    """Mutual information of code and side, in bits."""
    # [code, side, role, layer, head]
    joint = np.stack([(ids == code).mean(1) for code in range(n_codes)]) / 2
    ratio = 2 * joint / np.maximum(joint.sum(1, keepdims=True), 1e-12)
    return (joint * np.log2(np.where(joint > 0, ratio, 1))).sum((0, 1))


def _subsets(context: Context) -> Rank:
    means = HeadMeans(context.pairs, role_positions(context.pairs))
    context.run(means)

    def rank(indices: list[int], config: RoleOverlapConfig) -> tuple[np.ndarray, float]:
        ids = code_ids(means.z_[:, indices], config.n_codes, config.seed)
        return side_information(ids, config.n_codes).max(0), 0.0

    return rank


@method(config=RoleOverlapConfig, subsets=_subsets, scores_mlps=False)
def role_overlap(context: Context) -> Scores:
    """Score heads by what their codes at a role tell of the side (module docstring)."""
    heads, _ = _subsets(context)(list(range(len(context.pairs))), context.config)
    return Scores(heads, signed=False)
