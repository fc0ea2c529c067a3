"""One prompt in the frozen context of another: heads at tokens write what they wrote there, or recompute.

Two prompts, A and B, run once with gradients. Then any number of *arms* share a forward of A's tokens. An arm says of
every head at every token whether it is live, that is recomputes from what it now reads, or held at its value on B.
MLPs and embeddings are live, and no value is clamped but those of B.

With few nodes live an arm asks if they are enough by themselves; with few nodes held, if they are needed.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.metric import kl_divergence, task_metric
from interp.activations.stream import PairBatch, Progress, end_logits, feed
from interp.interventions.clean_run import MOST_POSITIONS, CleanRun
from interp.interventions.patch import Patch
from interp.models import HookFunction, Model, Site, model_device
from interp.models.partial_forward import takes_prefix
from interp.prompts.pairs import PromptPair, PromptPairs

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
"""Numbers of nodes at which the gradient is taken anew, and the next nodes are chosen."""
LEAST_GAIN = 1e-3
"""A node that promises less, as a share of the difference, is not chosen."""


class Node(NamedTuple):
    """A head at a token."""

    layer: int
    position: int
    head: int

    @property
    def site(self) -> Site:
        return Site("attn", self.layer, self.head)


class FrozenContext(CleanRun):
    """Two prompts, run once with gradients; A is pair 0 of this clean run, B pair 1.

    Args:
        a, b: tokens, of any lengths.
        first: of A's positions, the first at which B's values are known. From there on the prompts are aligned from the
            right. Before, A's own values stand in every arm.
        answer, instead: the tokens whose difference of logits is the metric.

    Attributes:
        log_p: of the next token after A and B [side, d_vocab].
        gradient: of the metric by z [side, layer, pos, head, d_head], like :attr:`held` in A's positions from ``first``.
        held: what heads wrote on B [layer, pos, head, d_head].
        shape: of an arm: layers, positions from ``first`` on, heads.
    """

    needs_gradients = True

    def __init__(
        self, model: Model, a: Sequence[int], b: Sequence[int], first: int, answer: int, instead: int
    ) -> None:
        rows = [
            PromptPair(name, name, tuple(side), tuple(side), (answer,), (instead,))
            for name, side in (("A", a), ("B", b))
        ]
        pairs = PromptPairs(rows, task="why", metric="logit_diff", counterfactual="b", seed=0, bos=True)
        super().__init__(model, pairs)
        self.first, self.length = first, len(a)
        self._gradients: dict[int, Float[Tensor, "layer pos head d_head"]] = {}
        self.forwards = feed(model, pairs, [self])
        later = slice(first, len(a)), slice(first + len(b) - len(a), len(b))
        self.corrupt_z[:, 0] = self.z[:, 0]
        self.corrupt_z[:, 0, later[0]] = self.held = self.z[:, 1, later[1]]
        self.gradient = torch.stack([self._gradients[side][:, at] for side, at in enumerate(later)])
        self.shape = tuple(self.held.shape[:3])
        with torch.no_grad():
            log_p = self._unpatched([0, 1])
        self.log_p = torch.stack([log_p[side].float().log_softmax(-1) for side in (0, 1)])
        self.kl = float(kl_divergence(self.log_p[0], self.log_p[1]))
        self.nothing = float(self.measure(self.arms([()]))[0][0])
        """The metric of A's tokens with every head at B."""

    def update(self, batch: PairBatch) -> None:
        super().update(batch)
        for row, index in enumerate(batch.indices):
            self._gradients[index] = torch.stack([gradient[row] for gradient in batch.z_gradient])

    @property
    def difference(self) -> tuple[float, float]:
        """The metric after A and after B."""
        a, b = self.metric_[0].tolist()
        return a, b

    def estimates(self) -> Float[np.ndarray, "layer pos head"]:
        """Of every node's effect: (z_A − z_B) · mean of both gradients."""
        change = self.z[:, 0, self.first : self.length] - self.held
        return (change * self.gradient.mean(0)).sum(-1).float().cpu().numpy()

    def arms(self, live: Sequence[Sequence[Node]]) -> Bool[np.ndarray, "arm layer pos head"]:
        """Arms in which these nodes are live."""
        arms = np.zeros((len(live), *self.shape), dtype=bool)
        for arm, nodes in zip(arms, live, strict=True):
            for node in nodes:
                arm[node.layer, node.position - self.first, node.head] = True
        return arms

    @torch.no_grad()
    def measure(
        self, live: Bool[np.ndarray, "arm layer pos head"], progress: Progress | None = None
    ) -> tuple[Float[np.ndarray, " arm"], Float[np.ndarray, " arm"]]:
        """Of every arm the metric, and KL(A ‖ arm) of the next token in nats."""
        together, metric, kl = max(1, MOST_POSITIONS // self.shape[1]), [], []
        for begin in range(0, len(live), together):
            arms = live[begin : begin + together]
            logits = self._logits(arms)[0].float()
            metric += task_metric(logits, [self.pairs[0]] * len(arms), self.pairs.metric).tolist()
            kl += kl_divergence(self.log_p[0], logits.log_softmax(-1)).tolist()
            if progress is not None:
                progress(len(arms))
        return np.array(metric), np.array(kl)

    def shares(
        self, live: Bool[np.ndarray, "arm layer pos head"], progress: Progress | None = None
    ) -> tuple[Float[np.ndarray, " arm"], Float[np.ndarray, " arm"]]:
        """Of every arm f, the restored share of the difference that heads make, and the share of KL(A ‖ B) removed."""
        metric, kl = self.measure(live, progress)
        return (metric - self.nothing) / (self.difference[0] - self.nothing), 1 - kl / self.kl

    def grow(self, sizes: Sequence[int] = SIZES, progress: Progress | None = None) -> list[Node]:
        """Nodes in the order in which they are put into the frozen context.

        At each size the gradient of −|1 − f| − KL(A ‖ arm) / KL(A ‖ B), taken with the nodes so far live, says what
        every other node promises: (z − z_B) · gradient, z what it would write if it were live, too. Where no node
        promises anything, as the last of a chain without the first, z is what it writes in A.
        """
        arm, order = np.zeros(self.shape, dtype=bool), list[Node]()
        for size in sizes:
            live, as_in_a = self.gains(arm)
            gains = live if live[~arm].max(initial=0) >= LEAST_GAIN else as_in_a
            gains[arm] = -np.inf
            for place in np.argsort(-gains, axis=None)[: size - len(order)]:
                layer, position, head = map(int, np.unravel_index(place, gains.shape))
                if gains[layer, position, head] < LEAST_GAIN:
                    return order
                arm[layer, position, head] = True
                order.append(Node(layer, position + self.first, head))
            if progress is not None:
                progress(1)
        return order

    @torch.enable_grad()
    def gains(self, arm: Bool[np.ndarray, "layer pos head"]) -> Float[np.ndarray, "kind layer pos head"]:
        """See :meth:`grow`: with z live, and as in A."""
        logits, written, live = self._logits(arm[None])
        metric = task_metric(logits, [self.pairs[0]], self.pairs.metric)[0]
        restored = (metric - self.nothing) / (self.difference[0] - self.nothing)
        kl = kl_divergence(self.log_p[0], logits[0].float().log_softmax(-1)) / self.kl
        gradients = torch.autograd.grad(-(1 - restored).abs() - kl, written)
        at_nodes = torch.stack([gradient[0, -self.shape[1] :] for gradient in gradients])
        values = torch.stack([torch.cat(live).detach(), self.z[:, 0, self.first : self.length]])
        return ((values - self.held) * at_nodes).sum(-1).float().cpu().numpy()

    def _logits(
        self, live: Bool[np.ndarray, "arm layer pos head"]
    ) -> tuple[Float[Tensor, "arm d_vocab"], list[Tensor], list[Tensor]]:
        """Logits of all tokens; what heads write in every layer; and what they would from ``first`` on, were all live."""
        written, would = list[Tensor](), list[Tensor]()
        mask = torch.from_numpy(live).to(self.held.device)[..., None]
        begin = self.first * takes_prefix(self.model)

        def hold(layer: int, z: Tensor) -> Tensor:
            later = z[:, self.first - begin :]
            z = torch.cat([z[:, : self.first - begin], torch.where(mask[:, layer], later, self.held[layer])], 1)
            if torch.is_grad_enabled():
                written.append(z)
                would.append(later)
            return z

        hooks: dict[str, HookFunction] = {
            Site("attn", layer).hook: partial(hold, layer) for layer in range(self.n_layers)
        }
        rows = [0] * len(live)
        resid = self.resid[0][rows, begin : self.length].detach().requires_grad_(torch.is_grad_enabled())
        return self.logits(rows, 0, resid, hooks, begin, every_token=True), written, would

    def effects_of(self, nodes: Sequence[Node]) -> Float[np.ndarray, " node"]:
        """Fall of A's metric when one node's output is replaced by its value on B, all else live."""
        return self.effects_with(nodes, [self.corrupt_z[n.layer, 0, n.position, n.head] for n in nodes])

    def effects_with(
        self, nodes: Sequence[Node], values: Sequence[Float[Tensor, " d_head"]]
    ) -> Float[np.ndarray, " node"]:
        """Fall of A's metric when one node writes something else, a node and its value a row."""
        if not nodes:
            return np.zeros(0)
        outcome = self.run(np.zeros(len(nodes), dtype=int), self._patches(nodes, torch.stack(list(values))))
        return self.difference[0] - outcome.metric

    def without(
        self, senders: Sequence[Node], receivers: Sequence[Node]
    ) -> Float[Tensor, "sender receiver d_head"]:
        """What the receivers write in A when one sender writes what it wrote on B, and all else is live."""
        n = len(senders)
        values = torch.stack([self.corrupt_z[s.layer, 0, s.position, s.head] for s in senders])
        read = [(receiver.site, np.full(n, receiver.position)) for receiver in receivers]
        outcome = self.run(np.zeros(n, dtype=int), self._patches(senders, values), read)
        return torch.stack(outcome.read, 1)

    def _patches(self, nodes: Sequence[Node], values: Float[Tensor, "node d_head"]) -> list[Patch]:
        """One patch for each site, whose rows are its nodes."""
        positions = np.array([node.position for node in nodes])
        rows = {site: np.array([node.site == site for node in nodes]) for site in {n.site for n in nodes}}
        return [Patch(site, values, positions, mask) for site, mask in sorted(rows.items(), key=lambda x: x[0])]

    def looks_at(self, nodes: Sequence[Node]) -> list[Float[np.ndarray, " pos"]]:
        """Of every node, which share of its attention · |value| in A each position has."""
        shares: dict[Node, np.ndarray] = {}
        norms: dict[int, Float[Tensor, "pos group"]] = {}

        def values(layer: int, v: Tensor) -> None:
            norms[layer] = v[0].float().norm(dim=-1)

        def pattern(layer: int, weights: Tensor) -> None:
            for node in {node for node in nodes if node.layer == layer}:
                group = node.head * norms[layer].shape[1] // self.n_heads
                share = weights[0, node.head, node.position].float() * norms[layer][:, group]
                shares[node] = (share / share.sum().clamp_min(1e-30)).cpu().numpy()

        hooks: dict[str, HookFunction] = {}
        for layer in {node.layer for node in nodes}:
            hooks[f"blocks.{layer}.attn.hook_v"] = partial(values, layer)
            hooks[f"blocks.{layer}.attn.hook_pattern"] = partial(pattern, layer)
        row = torch.tensor([self.pairs[0].clean_tokens], device=model_device(self.model))
        with torch.no_grad():
            end_logits(self.model, row, hooks)
        return [shares[node] for node in nodes]
