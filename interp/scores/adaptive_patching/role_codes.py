"""What a head's codes do to the answer: its output at the task's roles as codes, and the effect of changing them.

Every head has a codebook of its own, fitted without gradients (k-means) to its outputs at the role positions of the
very prompts, clean and corrupt. Then, to first order, the metric falls by

    Σ_roles (c(clean) − c(corrupt)) · ∂m/∂z

when a head's clean codes become those it has on the corrupt prompt: attribution patching in the space of codes. Set
for real (``z − c(clean) + c(corrupt)`` at the roles, everything downstream recomputed), the same exchange says how
much of the head's effect its codes carry.

Codes of a head are comparable across prompts and roles, and with no other head's.
"""

import math
from collections import Counter, defaultdict

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.means import HeadMeans, distinct_roles, role_positions
from interp.activations.stream import PairBatch
from interp.bottlenecks.codebook import Codebook, CodebookConfig
from interp.prompts.pairs import PromptPairs
from interp.scores.result import CodeChange


class RoleOutputs(HeadMeans):
    """A consumer that keeps every head's output and its gradient at the roles, at END where pairs share none.

    Attributes:
        gradient_: of the metric with respect to the clean output [pair, role, layer, head, d_head].
    """

    needs_gradients = True

    def __init__(self, pairs: PromptPairs) -> None:
        super().__init__(pairs, role_positions(pairs))
        if self.positions == "roles":
            self.roles_ = distinct_roles(pairs)
        self.gradient_: Float[Tensor, "pair role layer head d_head"]

    def update(self, batch: PairBatch) -> None:
        super().update(batch)
        reduced = self.reduce(batch.z_gradient, batch)
        if not hasattr(self, "gradient_"):
            self.gradient_ = torch.zeros(self.n_pairs, *reduced.shape[1:])
        self.gradient_[list(batch.indices)] = reduced


class RoleCodes:
    """A codebook of each head, fitted when its codes are first asked for, and the codes of all prompts.

    Args:
        outputs: after the feed.
        n_codes: codes of each head; no more than there are vectors.
    """

    def __init__(self, outputs: RoleOutputs, n_codes: int, seed: int) -> None:
        self.outputs, self.roles = outputs, outputs.roles_
        *prompts, _, _, d_head = outputs.z_.shape
        n = min(n_codes, math.prod(prompts))
        self.config = CodebookConfig(d_in=d_head, n_codes=n, selection="matching_pursuit", seed=seed)
        self._read: dict[tuple[int, int], tuple[Int[np.ndarray, "side pair role"], Tensor]] = {}

    def of(self, layer: int, head: int) -> Int[np.ndarray, "side pair role"]:
        return self._codes(layer, head)[0]

    def vectors(self, layer: int, head: int) -> Float[Tensor, "side pair role d_head"]:
        """What the codes stand for."""
        return self._codes(layer, head)[1]

    def attribution(self, layer: int, head: int) -> Float[np.ndarray, "pair role"]:
        clean, corrupt = self.vectors(layer, head)
        return ((clean - corrupt) * self.outputs.gradient_[:, :, layer, head]).sum(-1).numpy()

    @torch.no_grad()
    def _codes(self, layer: int, head: int) -> tuple[np.ndarray, Tensor]:
        if (layer, head) not in self._read:
            z = self.outputs.z_[..., layer, head, :]
            book = Codebook(self.config).fit(z.flatten(0, 2))
            codes = book.encode(z)
            self._read[layer, head] = codes.ids[..., 0].numpy(), book.decode(codes)
        return self._read[layer, head]

    def changes(self, layer: int, head: int, most: int) -> list[CodeChange]:
        """The changes of code that a head's effect comes from, largest first; those that change nothing left out."""
        ids, attribution = self.of(layer, head), self.attribution(layer, head)
        pairs = ids.shape[1]
        total: defaultdict[tuple[str, int, int], float] = defaultdict(float)
        seen: Counter[tuple[str, int, int]] = Counter()
        for slot, role in enumerate(self.roles):
            clean, corrupt = ids[:, :, slot]
            for pair in range(pairs):
                key = (role, int(clean[pair]), int(corrupt[pair]))
                total[key] += float(attribution[pair, slot])
                seen[key] += 1
        found = [
            CodeChange(*key, seen[key] / pairs, value / pairs)
            for key, value in total.items()
            if key[1] != key[2]
        ]
        return sorted(found, key=lambda change: -abs(change.attribution))[:most]
