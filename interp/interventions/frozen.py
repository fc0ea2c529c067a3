"""One prompt in the frozen context of another: heads at tokens write what they wrote there, or recompute.

Two prompts, A and B, run once with gradients. Then any number of *arms* share a forward of A's tokens. An arm says of
every head at every token whether it is live, that is recomputes from what it now reads, or held at its value on B.
MLPs and embeddings are live. With few nodes live an arm asks if they are enough, with few held, if they are needed.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.metric import kl_divergence, task_metric
from interp.activations.stream import Progress, batches
from interp.interventions.clean_run import MOST_POSITIONS, CleanRun
from interp.interventions.patch import Patch
from interp.models import HookFunction, Model, Site
from interp.models.partial_forward import takes_prefix
from interp.prompts.pairs import PromptPair, PromptPairs

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
"""Numbers of nodes from which on the gradient is taken anew."""
LEAST_GAIN = 1e-3
"""A node that promises less, as a share of the difference, is not chosen."""
Arms = Bool[np.ndarray, "arm layer pos head"]


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
        first: of A's positions, the first at which B's values are known: the prompts are aligned by their ends. Before
            it A's own values stand in every arm.
        answer, instead: the tokens whose difference of logits is the metric.

    Attributes:
        difference: the metric after A, and after B.
        nothing: the metric of A's tokens with every head at B.
        held, change: what heads wrote on B, and on A less that [layer, pos, head, d_head], from ``first`` on.
        gradient: of the metric [side, layer, pos, head, d_head], likewise.
        shape: of an arm.
    """

    needs_gradients = True

    def __init__(
        self, model: Model, a: Sequence[int], b: Sequence[int], first: int, answer: int, instead: int
    ) -> None:
        rows = [PromptPair("", "", ids, ids, (answer,), (instead,)) for ids in (tuple(a), tuple(b))]
        pairs = PromptPairs(rows, task="why", metric="logit_diff", counterfactual="b", seed=0, bos=True)
        super().__init__(model, pairs)
        gradients: dict[int, Float[Tensor, "layer pos head d_head"]] = {}
        points = [
            f"blocks.{layer}.attn.hook_{name}" for layer in range(self.n_layers) for name in ("pattern", "v")
        ]
        for batch in batches(model, pairs, [self], hooks=points):
            for row, side in enumerate(batch.indices):
                gradients[side] = torch.stack([gradient[row] for gradient in batch.z_gradient])
                if side == 0:
                    self._attention = [
                        (batch.tape[pattern][row].detach(), batch.tape[v][row].detach().norm(dim=-1))
                        for pattern, v in zip(points[::2], points[1::2], strict=True)
                    ]
        self.first, self.length = first, len(a)
        in_a, in_b = slice(first, len(a)), slice(first + len(b) - len(a), len(b))
        self.gradient = torch.stack([gradients[0][:, in_a], gradients[1][:, in_b]])
        self.corrupt_z[:, 0] = self.z[:, 0]
        self.corrupt_z[:, 0, in_a] = self.held = self.z[:, 1, in_b]
        self.change = self.z[:, 0, in_a] - self.held
        self.shape = tuple(self.held.shape[:3])
        with torch.no_grad():
            logits, nothing = self._unpatched([0, 1]), self._logits(self.arms([[]]))[0]
        self._log_p, other = (logits[side].log_softmax(-1) for side in (0, 1))
        self.kl = float(kl_divergence(self._log_p, other))
        self.difference: tuple[float, float] = tuple(self.metric_[0].tolist())
        self.nothing = float(task_metric(nothing, [pairs[0]], pairs.metric))

    def nodes(self, places: Sequence[int] | np.ndarray) -> list[Node]:
        """Nodes by their places in a flattened arm."""
        layers, positions, heads = np.unravel_index(np.asarray(places, dtype=int), self.shape)
        columns = (x.tolist() for x in (layers, positions + self.first, heads))
        return [Node(*at) for at in zip(*columns, strict=True)]

    def arms(self, live: Sequence[Sequence[Node]]) -> Arms:
        """Arms in which these nodes are live, and no other."""
        arms = np.zeros((len(live), *self.shape), dtype=bool)
        for arm, nodes in zip(arms, live, strict=True):
            for node in nodes:
                arm[node.layer, node.position - self.first, node.head] = True
        return arms

    def estimates(self) -> Float[np.ndarray, "layer pos head"]:
        """Of every node's effect: (z_A − z_B) · mean of both gradients."""
        return (self.change * self.gradient.mean(0)).sum(-1).float().cpu().numpy()

    def looks_at(self, node: Node) -> Float[np.ndarray, " pos"]:
        """Which share of the node's attention · |value| in A each position has."""
        pattern, sizes = self._attention[node.layer]
        share = pattern[node.head, node.position] * sizes[:, node.head * sizes.shape[1] // self.n_heads]
        return (share / share.sum()).float().cpu().numpy()

    @torch.no_grad()
    def shares(self, live: Arms) -> Float[np.ndarray, "2 arm"]:
        """Of every arm f, the restored share of the difference that heads make, and the share of KL(A ‖ B) removed."""
        together, told = max(1, MOST_POSITIONS // self.shape[1]), list[Tensor]()
        for begin in range(0, len(live), together):
            restored, kl = self._measured(self._logits(live[begin : begin + together])[0])
            told.append(torch.stack([restored, 1 - kl]))
        return torch.cat(told, 1).double().cpu().numpy()

    def _measured(
        self, logits: Float[Tensor, "arm d_vocab"]
    ) -> tuple[Float[Tensor, " arm"], Float[Tensor, " arm"]]:
        """f, and KL(A ‖ arm) as a share of KL(A ‖ B)."""
        metric = task_metric(logits, [self.pairs[0]] * len(logits), self.pairs.metric)
        kl = kl_divergence(self._log_p, logits.float().log_softmax(-1))
        return (metric - self.nothing) / (self.difference[0] - self.nothing), kl / self.kl

    def grow(self, progress: Progress) -> list[Node]:
        """Nodes in the order in which they are put into the frozen context, until none promises anything.

        At each of :data:`SIZES` the gradient of −|1 − f| − KL(A ‖ arm) / KL(A ‖ B), with the nodes so far live, says
        what another promises: (z − z_B) · gradient, z what it would write if it were live. Where all promise nothing,
        as the last of a chain without the first, z is what it writes in A.
        """
        arm, order = np.zeros(self.shape, dtype=bool), list[Node]()
        for size in SIZES:
            live, as_in_a = self._gains(arm)
            gains = live if live[~arm].max(initial=0) >= LEAST_GAIN else as_in_a
            best = np.argsort(np.where(arm, np.inf, -gains), axis=None)[: size - len(order)]
            order += self.nodes(best[gains.flat[best] >= LEAST_GAIN])
            if len(order) < size:
                break
            arm = self.arms([order])[0]
            progress(1)
        return order

    @torch.enable_grad()
    def _gains(self, arm: Bool[np.ndarray, "layer pos head"]) -> Float[np.ndarray, "kind layer pos head"]:
        logits, written, live = self._logits(arm[None])
        restored, kl = self._measured(logits)
        gradients = torch.autograd.grad((-(1 - restored).abs() - kl).sum(), written)
        at_nodes = torch.stack([gradient[0, -self.shape[1] :] for gradient in gradients])
        changes = torch.stack([torch.cat(live).detach() - self.held, self.change])
        return (changes * at_nodes).sum(-1).float().cpu().numpy()

    def _logits(self, live: Arms) -> tuple[Float[Tensor, "arm d_vocab"], list[Tensor], list[Tensor]]:
        """Logits of all tokens; with gradients, what heads write a layer, and what they would, were all live."""
        written, would = list[Tensor](), list[Tensor]()
        mask = torch.from_numpy(live).to(self.held.device)[..., None]
        begin = self.first * takes_prefix(self.model)

        def hold(layer: int, z: Tensor) -> Tensor:
            before, later = z[:, : self.first - begin], z[:, self.first - begin :]
            z = torch.cat([before, torch.where(mask[:, layer], later, self.held[layer])], 1)
            if torch.is_grad_enabled():
                written.append(z)
                would.append(later)
            return z

        hooks: dict[str, HookFunction] = {
            Site("attn", layer).hook: partial(hold, layer) for layer in range(self.n_layers)
        }
        rows = [0] * len(live)
        resid = self.resid[0][rows, begin : self.length].requires_grad_(torch.is_grad_enabled())
        return self.logits(rows, 0, resid, hooks, begin, every_token=True), written, would

    def node_effects(
        self,
        nodes: Sequence[Node],
        values: Sequence[Float[Tensor, " d_head"]] | None = None,
        receivers: Sequence[Node] = (),
    ) -> tuple[Float[np.ndarray, " node"], list[Float[Tensor, "node d_head"]]]:
        """Fall of A's metric when one node writes something else, all else live: one node a row.

        Args:
            values: what it writes, by default what it wrote on B.
            receivers: nodes of which it is told what they then write.
        """
        if not nodes:
            return np.zeros(0), []
        if values is None:
            values = [self.corrupt_z[node.layer, 0, node.position, node.head] for node in nodes]
        rows, positions = np.zeros(len(nodes), dtype=int), np.array([node.position for node in nodes])
        patches = [
            Patch(site, torch.stack(list(values)), positions, np.array([node.site == site for node in nodes]))
            for site in sorted({node.site for node in nodes})
        ]
        read = [(node.site, np.full(len(nodes), node.position)) for node in receivers]
        outcome = self.run(rows, patches, read)
        return self.difference[0] - outcome.metric, list(outcome.read)
