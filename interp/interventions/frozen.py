"""One prompt in the frozen context of another: heads at tokens write what they wrote there, or recompute.

Two prompts, A and B, run once with gradients. Then any number of *arms* share a forward of A's tokens. An arm says of
every head and MLP at every token whether it is live, that is recomputes from what it now reads, or held at its value
on B. Embeddings are live. With few nodes live an arm asks if they are enough, with few held, if they are needed.

Two kinds of arms: in one all MLPs are live and only heads are nodes; in the other MLPs are nodes, too, but for those
at the tokens in which the prompts differ, which are live as embeddings are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.metric import kl_divergence, preferred_answers, task_metric
from interp.activations.stream import Progress, batches
from interp.interventions.clean_run import MOST_POSITIONS, CleanRun, partition
from interp.interventions.patch import Patch, Write, patch_hooks
from interp.models import HookFunction, Model, Site
from interp.models.partial_forward import takes_prefix
from interp.prompts.pairs import PromptPair, PromptPairs

SIZES = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20)  # numbers of nodes from which on the gradient is taken anew
SOFT = 0.0, 0.5
"""Gradients by which nodes are chosen are means over contexts in which the others stand so far on the way from B's
value to what they would write: between both, the first of a chain counts before its last is put in."""
LEAST_GAIN = 1e-3  # a node that promises less, as a share of the difference, is not chosen
Arms = Bool[np.ndarray, "arm layer pos component"]


class Node(NamedTuple):
    """A head at a token, or an MLP if there is no head."""

    layer: int
    position: int
    head: int | None

    @property
    def site(self) -> Site:
        return Site("mlp", self.layer) if self.head is None else Site("attn", self.layer, self.head)


class FrozenContext(CleanRun):
    """Two prompts, run once with gradients; A is pair 0 of this clean run, B pair 1.

    Args:
        first: of A's positions, the first at which B's values are known: the prompts are aligned by their ends. Before
            it A's own values stand in every arm.
        answer, instead: the tokens whose difference of logits is the metric.

    Attributes:
        difference: the metric after A, and after B.
        shape: of an arm: layer, position from ``first`` on, heads and, in models with MLPs, the layer's MLP.
        nothing: the metric of A's tokens with every head at B; and with every MLP at B too, if the model has any.
        gradient: of the metric at heads [side, layer, pos, head, d_head], from ``first`` on.
    """

    needs_gradients = True

    def __init__(self, model: Model, a: Sequence[int], b: Sequence[int], first: int, answer: int, instead: int) -> None:
        rows = [PromptPair("", "", ids, ids, (answer,), (instead,)) for ids in (tuple(a), tuple(b))]
        pairs = PromptPairs(rows, task="why", metric="logit_diff", counterfactual="b", seed=0, bos=True)
        super().__init__(model, pairs, mlps=True)
        self.first, self.length = first, len(a)
        in_a, in_b = slice(first, len(a)), slice(first + len(b) - len(a), len(b))
        gradients: dict[int, list[Tensor]] = {}
        layers = range(self.n_layers)
        points = [f"blocks.{layer}.attn.hook_{name}" for layer in layers for name in ("pattern", "v")]
        for batch in batches(model, pairs, [self], hooks=points):
            for row, side in enumerate(batch.indices):
                kinds, inside = [batch.z_gradient, batch.mlp_gradient][: 1 + self.mlps], (in_a, in_b)[side]
                gradients[side] = [torch.stack([layer[row, inside] for layer in kind]) for kind in kinds]
                if side == 0:
                    self._attention = [
                        (batch.tape[pattern][row].detach(), batch.tape[v][row].detach().norm(dim=-1))
                        for pattern, v in zip(points[::2], points[1::2], strict=True)
                    ]
        self.gradient = torch.stack([gradients[0][0], gradients[1][0]])
        stored = [(self.z, self.corrupt_z)] + ([(self.mlp, self.corrupt_mlp)] if self.mlps else [])
        self._held, self._change = list[Tensor](), list[Tensor]()
        for clean, corrupt in stored:
            corrupt[:, 0] = clean[:, 0]
            corrupt[:, 0, in_a] = clean[:, 1, in_b]
            self._held.append(clean[:, 1, in_b])
            self._change.append(clean[:, 0, in_a] - clean[:, 1, in_b])
        self.shape = (*self._held[0].shape[:2], self.n_heads + self.mlps)
        self._estimates = self._along(
            self._change, [(x + y) / 2 for x, y in zip(gradients[0], gradients[1], strict=True)]
        )
        self.differ = np.array([x != y for x, y in zip(a[in_a], b[in_b], strict=True)])
        with torch.no_grad():
            logits = self._unpatched([0, 1])
            nothing = self._logits(np.concatenate([self.arms([[]], mlps=mlps) for mlps in self.kinds]))[0]
        self._log_p, other = (logits[side].log_softmax(-1) for side in (0, 1))
        self.kl = float(kl_divergence(self._log_p, other))
        self.difference: tuple[float, float] = tuple(self.metric_[0].tolist())
        self.nothing: list[float] = self._metric(nothing).tolist()

    @property
    def kinds(self) -> tuple[bool, ...]:
        """Of arms: whether MLPs are nodes in them, if any MLP can be one."""
        return (False, True)[: 1 + (self.mlps and not self.differ.all())]

    def nodes(self, places: Sequence[int] | np.ndarray) -> list[Node]:
        """Nodes by their places in a flattened arm."""
        layers, positions, components = np.unravel_index(np.asarray(places, dtype=int), self.shape)
        columns = (x.tolist() for x in (layers, positions + self.first, components))
        return [
            Node(layer, position, None if component == self.n_heads else component)
            for layer, position, component in zip(*columns, strict=True)
        ]

    def place(self, node: Node) -> tuple[int, int, int]:
        """Where a node stands in an arm."""
        return (node.layer, node.position - self.first, self.n_heads if node.head is None else node.head)

    def arms(self, live: Sequence[Sequence[Node]], *, mlps: bool = False) -> Arms:
        """Arms in which these nodes are live, and no other; MLPs live unless they are nodes."""
        arms = np.zeros((len(live), *self.shape), dtype=bool)
        arms[:, :, self.differ if mlps else slice(None), self.n_heads :] = True
        for arm, nodes in zip(arms, live, strict=True):
            for node in nodes:
                arm[self.place(node)] = True
        return arms

    def without(self, nodes: Sequence[Node]) -> Arms:
        """One arm in which these nodes are held, and no other."""
        arms = np.ones((1, *self.shape), dtype=bool)
        for node in nodes:
            arms[(0, *self.place(node))] = False
        return arms

    def estimates(self, *, mlps: bool = False) -> Float[np.ndarray, "layer pos component"]:
        """Of every node's effect: (value in A − value in B) · mean of both gradients; 0 of what is no node."""
        estimates = self._estimates.copy()
        estimates[self.arms([[]], mlps=mlps)[0]] = 0
        return estimates

    def _along(
        self, changes: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> Float[np.ndarray, "*arm layer pos component"]:
        """Change · gradient of every component, of [*arm, layer, pos, head, d_head] and [*arm, layer, pos, d_model]."""
        heads, *mlps = ((x * y).sum(-1).float().cpu() for x, y in zip(changes, gradients, strict=True))
        along = heads.new_zeros(*heads.shape[:-1], self.shape[-1])
        along[..., : self.n_heads] = heads
        if mlps:
            along[..., -1] = mlps[0]
        return along.numpy()

    def looks_at(self, node: Node) -> Float[np.ndarray, " pos"]:
        """Which share of the node's attention · |value| in A each position has."""
        assert node.head is not None
        pattern, sizes = self._attention[node.layer]
        share = pattern[node.head, node.position] * sizes[:, node.head * sizes.shape[1] // self.n_heads]
        return (share / share.sum()).float().cpu().numpy()

    @torch.no_grad()
    def shares(self, live: Arms, *, mlps: bool = False) -> Float[np.ndarray, "2 arm"]:
        """Of every arm f, the restored share of the difference that nodes make, and the share of KL(A ‖ B) removed."""
        together, shares = max(1, MOST_POSITIONS // self.shape[1]), list[Tensor]()
        for begin in range(0, len(live), together):
            restored, kl = self._measured(self._logits(live[begin : begin + together])[0], self.nothing[mlps])
            shares.append(torch.stack([restored, 1 - kl]))
        return torch.cat(shares, 1).double().cpu().numpy()

    def _metric(self, logits: Float[Tensor, "arm d_vocab"]) -> Float[Tensor, " arm"]:
        return task_metric(logits, [self.pairs[0]] * len(logits), self.pairs.metric)

    def _measured(
        self, logits: Float[Tensor, "arm d_vocab"], nothing: float | Float[Tensor, " arm"]
    ) -> tuple[Float[Tensor, " arm"], Float[Tensor, " arm"]]:
        """f, and KL(A ‖ arm) as a share of KL(A ‖ B)."""
        kl = kl_divergence(self._log_p, logits.float().log_softmax(-1))
        return (self._metric(logits) - nothing) / (self.difference[0] - nothing), kl / self.kl

    @torch.enable_grad()
    def grow(self, progress: Progress) -> list[list[Node]]:
        """Of every kind of arm, nodes in the order in which they are put in, until none promises anything.

        At each of :data:`SIZES` the gradient of −|1 − f| − KL(A ‖ arm) / KL(A ‖ B) says what another promises: (what it
        would write − its value on B) · gradient, in the mean over :data:`SOFT`. All share a forward.
        """
        arms = np.concatenate([self.arms([[]], mlps=mlps) for mlps in self.kinds])
        nothing = torch.tensor(self.nothing[: len(arms)], device=self._held[0].device).repeat(len(SOFT))
        soft = np.repeat(SOFT, len(arms))[:, None, None, None]
        orders: list[list[Node]] = [[] for _ in self.kinds]
        for size in SIZES:
            logits, written, live = self._logits(np.tile(arms, (len(SOFT), 1, 1, 1)), soft)
            restored, kl = self._measured(logits, nothing)
            written, live = ([kind for kind in kinds if kind] for kinds in (written, live))
            flat = [x for kind in written for x in kind]
            slopes = iter(torch.autograd.grad((-(1 - restored).abs() - kl).sum(), flat))
            later = slice(-self.shape[1], None)
            gradients = [torch.stack([next(slopes)[:, later] for _ in kind], 1) for kind in written]
            would = [torch.stack([x.detach() for x in kind], 1) for kind in live]
            changes = [new - held for new, held in zip(would, self._held, strict=False)]
            gains = self._along(changes, gradients).reshape(len(SOFT), *arms.shape).mean(0)
            for arm, order, gain in zip(arms, orders, gains, strict=True):
                best = np.argsort(np.where(arm, np.inf, -gain), axis=None)[: max(size - len(order), 0)]
                order += self.nodes(best[gain.flat[best] >= LEAST_GAIN])
                arm.flat[best[gain.flat[best] >= LEAST_GAIN]] = True
            progress(1)
        return orders

    def _logits(
        self, live: Arms, soft: float | Float[np.ndarray, "arm 1 1 1"] = 0.0
    ) -> tuple[Float[Tensor, "arm d_vocab"], list[list[Tensor]], list[list[Tensor]]]:
        """Logits of all tokens; with gradients, what heads and MLPs write a layer, and what they would, were all live.
        ``soft`` is how far what an arm holds stands from B's value on the way to what it would write."""
        written: list[list[Tensor]] = [[] for _ in self._held]
        would: list[list[Tensor]] = [[] for _ in self._held]
        weights = torch.from_numpy(np.where(live, 1.0, soft)).to(self._held[0])[..., None]
        begin = self.first * takes_prefix(self.model)

        def hold(layer: int, kind: int, activation: Tensor) -> Tensor:
            before, later = (activation[:, : self.first - begin], activation[:, self.first - begin :])
            weight = (weights[:, layer, :, : self.n_heads], weights[:, layer, :, -1])[kind]
            changed = torch.cat([before, torch.lerp(self._held[kind][layer], later, weight)], 1)
            if torch.is_grad_enabled():
                written[kind].append(changed)
                would[kind].append(later)
            return changed

        sites = [Site("attn", layer) for layer in range(self.n_layers)]
        if self.mlps and not live[..., -1].all():
            sites += [Site("mlp", layer) for layer in range(self.n_layers)]
        kinds = [int(site.kind == "mlp") for site in sites]
        hooks = {site.hook: partial(hold, site.layer, kind) for site, kind in zip(sites, kinds, strict=True)}
        rows = [0] * len(live)
        resid = self.resid[0][rows, begin : self.length].requires_grad_(torch.is_grad_enabled())
        return self.logits(rows, 0, resid, hooks, begin, every_token=True), written, would

    def node_effects(
        self, nodes: Sequence[Node], values: Sequence[Float[Tensor, " d"]] | None = None, receivers: Sequence[Node] = ()
    ) -> tuple[Float[np.ndarray, " node"], list[Float[Tensor, "node d_head"]]]:
        """Fall of A's metric when one node writes something else, by default what it wrote on B, all else live: one
        node a row; and what the receivers then write."""
        if not nodes:
            return np.zeros(0), []
        if values is None:
            values = [self.on_b(node) for node in nodes]
        rows, positions = np.zeros(len(nodes), dtype=int), np.array([node.position for node in nodes])
        patches = []
        for site in sorted({node.site for node in nodes}):
            here = np.array([node.site == site for node in nodes])
            written = torch.stack([value for value, at in zip(values, here, strict=True) if at])
            whole = written.new_zeros(len(nodes), written.shape[-1])
            whole[torch.from_numpy(here)] = written
            patches.append(Patch(site, whole, positions, here))
        read = [(node.site, np.full(len(nodes), node.position)) for node in receivers]
        outcome = self.run(rows, patches, read)
        return self.difference[0] - outcome.metric, list(outcome.read)

    @torch.no_grad()
    def direct(self, senders: Sequence[Node], receivers: Sequence[Node]) -> list[Float[Tensor, "sender d_head"]]:
        """What each receiver, a head, writes in A when one sender writes what it wrote on B and nothing between moves:
        all heads and MLPs are held at A, whatever the architecture."""
        begin = self.first * takes_prefix(self.model)
        written: dict[Node, Tensor] = {}

        def hold(site: Site, stored: Tensor, activation: Tensor) -> Tensor:
            for node in receivers:
                if node.layer == site.layer and site.kind == "attn":
                    written[node] = activation[:, node.position - begin, node.head].clone()
            held = stored[site.layer, 0, begin : self.length].expand_as(activation).clone()
            for row, node in enumerate(senders):
                if (node.site.layer, node.site.kind) == (site.layer, site.kind):
                    at = held[row, node.position - begin]
                    (at if node.head is None else at[node.head]).copy_(self.on_b(node))
            return held

        hooks: dict[str, HookFunction] = {}
        for layer in range(self.n_layers):
            hooks[Site("attn", layer).hook] = partial(hold, Site("attn", layer), self.z)
            if self.mlps:
                hooks[Site("mlp", layer).hook] = partial(hold, Site("mlp", layer), self.mlp)
        resid = self.resid[0][[0] * len(senders), begin : self.length]
        self.logits([0] * len(senders), 0, resid, hooks, begin)
        return [written[node] for node in receivers]

    def on_b(self, node: Node) -> Float[Tensor, " d"]:
        """What a node wrote on B; before ``first``, on A."""
        stored = self.corrupt_mlp if node.head is None else self.corrupt_z
        at = stored[node.layer, 0, node.position]
        return at if node.head is None else at[node.head]


@dataclass(frozen=True)
class LiveAt:
    """A head that is live in a frozen context, at a position in the prompt for each row, in some rows or all."""

    site: Site
    positions: Int[np.ndarray, " row"]
    rows: Bool[np.ndarray, " row"] | None = None


@dataclass(frozen=True)
class FrozenPart:
    """Rows of :func:`frozen_parts` that share a forward, which ran from ``begin`` on. With gradients, ``written``
    stands at each layer's heads [row, pos, head, d_head], and ``change`` is how far what they would write, were they
    live, is from what is held."""

    rows: Int[np.ndarray, " part"]
    logits: Float[Tensor, "part d_vocab"]
    begin: int
    written: list[Tensor]
    change: list[Tensor]


def frozen_parts(
    clean: CleanRun, pairs: Int[np.ndarray, " row"], live: Sequence[LiveAt], patches: Sequence[Patch], soft: float = 0.0
) -> Iterator[FrozenPart]:
    """Forward by forward, clean prompts with every head at every token at its value on the corrupt prompt, but for
    those that are live and what patches write; MLPs are live. With gradients where they are enabled.

    Patches are at single positions. Before the first token that differs nothing is live or written: all is the same.
    ``soft`` is how far what is held stands from the corrupt value on the way to what the head would write.
    """
    begins = np.array([clean.pairs[pair].first_difference for pair in pairs]) * takes_prefix(clean.model)
    ends = np.array([len(clean.pairs[pair].clean_tokens) for pair in pairs])
    for rows in partition(np.full(len(pairs), clean.n_layers), begins, ends):
        begin, end = int(begins[rows].min()), int(ends[rows].max())
        places, chosen = clean.places(pairs[rows]), pairs[rows].tolist()
        writes: dict[str, list[Write]] = {}
        for patch in patches:
            here = _chosen(patch, rows, begin)
            if len(here):
                writes.setdefault(patch.site.hook, []).append(patch.write(here, rows[here], begin))
        hooks, written, change = patch_hooks(writes), list[Tensor](), list[Tensor]()
        tape = (written, change) if torch.is_grad_enabled() else None
        for layer in range(clean.n_layers):
            held = clean.corrupt_z[layer, places, begin:end]
            at_layer = [
                (here, node.positions[rows[here]] - begin, node.site.head)
                for node in live
                if node.site.layer == layer
                for here in [_chosen(node, rows, begin)]
            ]
            name = Site("attn", layer).hook
            hooks[name] = partial(_held, held, at_layer, hooks.get(name), soft, tape)
        resid = clean.resid[0][places, begin:end].requires_grad_(tape is not None)
        logits = clean.logits(chosen, 0, resid, hooks, begin)
        yield FrozenPart(rows, logits, begin, written, change)
        clean.forwards += float(((ends[rows] - begin) / ends[rows]).sum()) * (1 if tape is None else 3)


def _chosen(at: LiveAt | Patch, rows: Int[np.ndarray, " part"], begin: int) -> Int[np.ndarray, " chosen"]:
    """Which of some rows a node or a patch is in, from a position on."""
    assert at.positions is not None
    inside = at.positions[rows] >= begin
    return np.flatnonzero(inside if at.rows is None else inside & at.rows[rows])


@torch.no_grad()
def in_frozen_context(
    clean: CleanRun, pairs: Int[np.ndarray, " row"], live: Sequence[LiveAt], patches: Sequence[Patch]
) -> tuple[Float[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """The metric and the preferred answer of :func:`frozen_parts`."""
    metric, preferred = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=int)
    for part in frozen_parts(clean, pairs, live, patches):
        prompts = [clean.pairs[pair] for pair in pairs[part.rows]]
        metric[part.rows] = task_metric(part.logits, prompts, clean.pairs.metric).cpu().numpy()
        preferred[part.rows] = preferred_answers(part.logits, prompts).cpu().numpy()
    return metric, preferred


def _held(
    held: Float[Tensor, "row pos head d_head"],
    live: Sequence[tuple[np.ndarray, np.ndarray, int | None]],
    patch: HookFunction | None,
    soft: float,
    tape: tuple[list[Tensor], list[Tensor]] | None,
    z: Float[Tensor, "row pos head d_head"],
) -> Tensor:
    """What stands at a layer's heads: what is held, but for those that are live, and what a patch writes."""
    stands = held.clone() if tape is None else torch.lerp(held, z, soft)
    for at in live:
        stands[at] = z[at]
    if patch is not None:
        patched = patch(stands)
        stands = stands if patched is None else patched
    if tape is not None:
        tape[0].append(stands)
        tape[1].append(z.detach() - held)
    return stands
