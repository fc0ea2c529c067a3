"""What heads say at the task's roles: their outputs there, and the codes that a run's codebooks give them.

A run has one vocabulary of codes: the codebooks of its program, one for each head at a role; without a program those
that come with the package for the model, one for each head. To first order the metric falls by

    (c(clean) − c(corrupt)) · ∂m/∂z

when a head's clean code at a role becomes the one it has on the corrupt prompt: attribution patching in the space of
codes.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.means import HeadMeans, distinct_roles, role_positions
from interp.activations.stream import PairBatch
from interp.bottlenecks.dictionary import Dictionary
from interp.prompts.pairs import PromptPairs
from interp.scores.result import CodeChange


class RoleOutputs(HeadMeans):
    """A consumer that keeps every head's output and its gradient at the roles, at END where pairs share none:
    ``gradient_`` is of the metric by the clean output [pair, role, layer, head, d_head], zero where the pass takes no
    gradients."""

    def __init__(self, pairs: PromptPairs) -> None:
        super().__init__(pairs, role_positions(pairs))
        if self.positions == "roles":
            self.roles_ = distinct_roles(pairs)
        self.gradient_: Float[Tensor, "pair role layer head d_head"]

    def update(self, batch: PairBatch) -> None:
        super().update(batch)
        if not hasattr(self, "gradient_"):
            self.gradient_ = torch.zeros(self.z_.shape[1:])
        if batch.z_gradient:
            self.gradient_[list(batch.indices)] = self.reduce(batch.z_gradient, batch)


class RoleCodes:
    """The codes of heads at roles, read when they are first asked for: from the fed ``outputs``, by codebooks of heads
    at a role (``a17.h4 @ S2``) or at all of them (``a17.h4``)."""

    def __init__(self, outputs: RoleOutputs, codebooks: Mapping[str, Dictionary]) -> None:
        self.outputs, self.codebooks, self.roles = outputs, codebooks, outputs.roles_
        self._read: dict[tuple[int, int], tuple[Int[np.ndarray, "side pair role"], Tensor]] = {}

    def of(self, layer: int, head: int) -> Int[np.ndarray, "side pair role"]:
        """A head's strongest code; −1 at roles for which there is no codebook."""
        return self._codes(layer, head)[0]

    def vectors(self, layer: int, head: int) -> Float[Tensor, "side pair role d_head"]:
        """What the codes stand for; zero without a codebook."""
        return self._codes(layer, head)[1]

    def attribution(self, layer: int, head: int) -> Float[np.ndarray, "pair role"]:
        clean, corrupt = self.vectors(layer, head)
        return ((clean - corrupt) * self.outputs.gradient_[:, :, layer, head]).sum(-1).numpy()

    @torch.no_grad()
    def _codes(self, layer: int, head: int) -> tuple[np.ndarray, Tensor]:
        if (layer, head) not in self._read:
            z, site = self.outputs.z_[..., layer, head, :], f"a{layer}.h{head}"
            ids, vectors = np.full(z.shape[:-1], -1), torch.zeros_like(z)
            for place, role in enumerate(self.roles):
                codebook = self.codebooks.get(f"{site} @ {role}", self.codebooks.get(site))
                if codebook is not None:
                    codes = codebook.encode(z[:, :, place])
                    ids[:, :, place] = codes.ids[..., 0].numpy()
                    vectors[:, :, place] = codebook.decode(codes)
            self._read[layer, head] = ids, vectors
        return self._read[layer, head]

    def changes(self, layer: int, head: int, most: int) -> list[CodeChange]:
        """The changes of code that a head's effect comes from, largest first; those that change nothing left out."""
        ids, attribution = self.of(layer, head), self.attribution(layer, head)
        pairs = ids.shape[1]
        total: defaultdict[tuple[str, int, int], float] = defaultdict(float)
        seen: Counter[tuple[str, int, int]] = Counter()
        for place, role in enumerate(self.roles):
            clean, corrupt = ids[:, :, place]
            for pair in np.flatnonzero(clean != corrupt):
                key = (role, int(clean[pair]), int(corrupt[pair]))
                total[key] += float(attribution[pair, place])
                seen[key] += 1
        changes = [CodeChange(*key, seen[key] / pairs, value / pairs) for key, value in total.items() if value]
        return sorted(changes, key=lambda change: -abs(change.attribution))[:most]

    def usage(self, layer: int, head: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Of either side, a head's codes and the share of its prompts and roles that have each, most used first."""
        shares = []
        for side in self.of(layer, head):
            used, counts = np.unique(side, return_counts=True)
            order = np.argsort(-counts, kind="stable")
            shares.append([(int(used[i]), float(counts[i] / counts.sum())) for i in order])
        return shares[0], shares[1]
