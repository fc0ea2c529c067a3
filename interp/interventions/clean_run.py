"""Both prompts of some pairs, run once, and what becomes of the clean ones when something else stands at some sites.

A :class:`CleanRun` reads a pass over the pairs and keeps what patches need: the residual stream of the clean prompts at
every layer, and the outputs of heads (and MLPs) on both sides. A forward with patches then starts at the first layer
and the first position that any of them changes: what lies before is as in the clean run, whose keys and values are kept
too. Rows that begin near each other share forwards, parted so that all cost least.

A discovery has one clean run. Scores, check, edges and program patch from it, so no pair runs twice for them, and a
head that was patched on a pair is not patched there again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.activations.metric import kl_divergence, preferred_answers, task_metric
from interp.activations.stream import Hooks, MetricConsumer, PairBatch, Progress, answer_logits, end_logits, feed
from interp.interventions.patch import Patch, Reader, Write, patch_hooks
from interp.models import Model, Site, has_mlps, model_device
from interp.models.partial_forward import Prefix, starting_at, takes_prefix
from interp.prompts.pairs import PromptPair, PromptPairs

PerRow = Int[np.ndarray, " row"]
PerPatch = Int[np.ndarray, " patch"]
MEMORY = 2 * 2**30  # bytes that a clean run may keep
MOST_KEPT = 128  # pairs that a discovery keeps
PATCH_ROWS = 64  # prompts that share a forward
MOST_ROWS, MOST_POSITIONS = 256, 1024  # of one with patches: rows of few positions are more
OVERHEAD = 45  # positions of a layer that cost as much as one forward of it costs beside its positions
NEAR = 2  # positions by which first differences of pairs may differ that a gradient is taken of together
NEVER = -1e4  # the logit of a token that does not come; finite, so that differences are


@dataclass(frozen=True)
class Outcome:
    """What came of some patches, a clean prompt a row.

    ``top``, ``kl`` and ``off_target`` are −1 and NaN unless they were asked for.
    """

    metric: Float[np.ndarray, " row"]
    preferred: PerRow  # the token the model likes best among the pair's answers and wrong answers
    top: PerRow  # the token it likes best of all
    kl: Float[np.ndarray, " row"]  # KL(clean ‖ patched) of the next token, in nats
    off_target: Float[np.ndarray, " row"]  # the same with the pair's answers and wrong answers left out
    read: tuple[Float[Tensor, "row ..."], ...]  # what stands at the sites and positions that were asked for


@dataclass(frozen=True)
class PatchingEffects:
    """Exact effects of some sites, before the mean over pairs. ``forwards`` counts layers and positions that were run:
    a patch at half the depth of prompts that begin to differ at half their length is a quarter of a forward."""

    sites: tuple[Site, ...]
    effects: Float[np.ndarray, "pair site"]
    metric_clean: Float[np.ndarray, " pair"]
    metric_corrupt: Float[np.ndarray, " pair"]
    forwards: float
    seconds: float


class CleanRun(MetricConsumer):
    """What a pass over pairs shows, and patches of the clean prompts afterwards (module docstring).

    Args:
        wanted: pairs that can be patched; all if not given.
        mlps: whether MLPs can be patched, too: in :meth:`effects` each stands after the heads of its layer.

    Attributes:
        kept: the pairs that can be patched.
        preferred_: [pair], see :class:`Outcome`, of every clean prompt.
        resid: of the clean prompts at each layer's input [layer, kept pair, pos, d_model]. Shorter prompts are padded
            behind END, which no attention of theirs reads.
        z, corrupt_z: [layer, kept pair, pos, head, d_head].
        mlp, corrupt_mlp: [layer, kept pair, pos, d_model].
        forwards: spent by :meth:`run`, in forward passes of one prompt.
    """

    def __init__(
        self, model: Model, pairs: PromptPairs, wanted: Iterable[int] | None = None, *, mlps: bool = False
    ) -> None:
        super().__init__(len(pairs))
        self.model, self.pairs, self.mlps = model, pairs, mlps and has_mlps(model)
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.needs_hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(self.n_layers)]
        indices = list(range(len(pairs)) if wanted is None else wanted)
        self.kept = frozenset(indices)
        self.forwards = 0.0
        self.preferred_ = np.zeros(len(pairs), dtype=int)
        self._place = np.full(len(pairs), -1)
        self._place[indices] = np.arange(len(indices))
        self._first = np.array([pair.first_difference for pair in pairs]) * takes_prefix(model)
        self._length = np.array([len(pair.clean_tokens) for pair in pairs])
        tokens = [torch.tensor(pairs[i].clean_tokens, device=model_device(model)) for i in indices]
        self.tokens: Int[Tensor, "pair pos"] = pad_sequence(tokens, batch_first=True)
        self._share = np.ones(len(pairs))
        self._prefix: Prefix | None = None
        self._clean_logits: dict[int, Float[Tensor, " d_vocab"]] = {}
        self._known: Float[np.ndarray, "pair layer component"] = np.full(
            (len(pairs), self.n_layers, self.n_heads + self.mlps), np.nan
        )
        self.resid: Float[Tensor, "layer pair pos d_model"]
        self.z: Float[Tensor, "layer pair pos head d_head"]
        self.corrupt_z: Float[Tensor, "layer pair pos head d_head"]
        self.mlp: Float[Tensor, "layer pair pos d_model"]
        self.corrupt_mlp: Float[Tensor, "layer pair pos d_model"]

    @classmethod
    def of_first(cls, model: Model, pairs: PromptPairs, *, mlps: bool = False, memory: int = MEMORY) -> "CleanRun":
        """Of as many of the first pairs as :data:`MOST_KEPT` and ``memory`` allow, at least two."""
        cfg = model.cfg
        a_position = cfg.n_layers * (cfg.d_model * (1 + 2 * mlps) + 2 * cfg.n_heads * cfg.d_head)
        longest = max(len(pair.clean_tokens) for pair in pairs)
        most = memory // (longest * a_position * next(model.parameters()).element_size())
        return cls(model, pairs, range(min(len(pairs), MOST_KEPT, max(2, most))), mlps=mlps)

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: PromptPairs,
        *,
        mlps: bool = False,
        batch_size: int = PATCH_ROWS,
        progress: Progress | None = None,
    ) -> "CleanRun":
        """Of all pairs, run for it alone."""
        run = cls(model, pairs, mlps=mlps)
        run.forwards = feed(model, pairs, [run], batch_size=batch_size, progress=progress)
        return run

    def update(self, batch: PairBatch) -> None:
        super().update(batch)
        indices = np.array(batch.indices)
        self.preferred_[indices] = batch.clean.preferred.cpu().numpy()
        rows = np.flatnonzero(self._place[indices] >= 0)
        if not len(rows):
            return
        places, length = self._place[indices[rows]], batch.clean.tokens.shape[1]
        self._share[indices[rows]] = 1 - self._first[indices[rows]].min() / length
        sides = {
            "resid": [batch.tape[name].detach() for name in self.needs_hooks],
            "z": batch.clean.z,
            "corrupt_z": batch.corrupt.z,
        }
        if self.mlps:
            sides |= {"mlp": batch.clean.mlp, "corrupt_mlp": batch.corrupt.mlp}
        for name, layers in sides.items():
            if not hasattr(self, name):
                shape = len(layers), *self.tokens.shape, *layers[0].shape[2:]
                setattr(self, name, layers[0].new_zeros(shape))
            for stored, layer in zip(getattr(self, name), layers, strict=True):
                stored[places, :length] = layer[rows]

    def component(self, site: Site) -> tuple[int, int]:
        """What :meth:`effects` calls a head or an MLP: its layer, and its number there."""
        return site.layer, self.n_heads if site.head is None else site.head

    def places(self, pairs: PerRow) -> PerRow:
        """Where pairs stand in :attr:`resid` and the others."""
        return self._place[pairs]

    def share(self, pairs: Sequence[int]) -> float:
        """Mean share of the prompts' positions that a patch of some pairs runs."""
        return float(self._share[list(pairs)].mean())

    def prefix_cost(self, pairs: Sequence[int]) -> float:
        """Forward-pass equivalents of what is run once more of some pairs: the positions before they differ."""
        return float((1 - self._share[list(pairs)]).sum())

    def cost(self, pairs: Sequence[int]) -> Float[np.ndarray, " layer"]:
        """Forward-pass equivalents of one patch at each layer, on an average one of some pairs."""
        return self.share(pairs) * (1 - np.arange(self.n_layers) / self.n_layers)

    def at(self, site: Site, pairs: PerRow, positions: PerRow, *, corrupt: bool) -> Float[Tensor, "row ..."]:
        """What stood at a site, at one position a row."""
        layers = getattr(self, ("corrupt_" if corrupt else "") + ("z" if site.kind == "attn" else "mlp"))
        at_site = layers[site.layer, torch.from_numpy(self._place[pairs]), torch.from_numpy(positions)]
        return at_site if site.head is None else at_site[:, site.head]

    def near(self, pairs: Sequence[int], most: int = PATCH_ROWS) -> Iterator[tuple[list[int], int]]:
        """Pairs that begin to differ near each other, and where the first of them does."""
        group: list[int] = []
        for pair in sorted(pairs, key=lambda pair: self._first[pair]):
            if group and (self._first[pair] > self._first[group[0]] + NEAR or len(group) == most):
                yield group, int(self._first[group[0]])
                group = []
            group.append(pair)
        if group:
            yield group, int(self._first[group[0]])

    def outputs(
        self, pairs: Sequence[int], begin: int = 0
    ) -> tuple[Float[Tensor, "pair pos d_model"], Float[Tensor, "layer pair pos head d_head"]]:
        """From ``begin`` on: the first layer's input on clean prompts, and all heads' outputs on corrupt ones."""
        places, end = self._place[list(pairs)], self._length[list(pairs)].max()
        return self.resid[0][places, begin:end], self.corrupt_z[:, places, begin:end]

    def logits(
        self,
        pairs: Sequence[int],
        layer: int,
        resid: Float[Tensor, "row pos d_model"],
        hooks: Hooks,
        begin: int = 0,
        *,
        every_token: bool = False,
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits after some clean prompts, from a layer's input at a position on; of the answers unless all are asked
        for. With gradients where they are enabled."""
        places = self._place[list(pairs)].tolist()
        tokens = self.tokens[places, begin : begin + resid.shape[1]]
        last = torch.from_numpy(self._length[list(pairs)] - 1 - begin).to(tokens.device)
        prefix = self._before(begin)  # made before the model starts in the middle
        with starting_at(self.model, layer, resid), prefix.before(self.model, places):
            if every_token:
                return end_logits(self.model, tokens, hooks, last)
            rows = [self.pairs[pair] for pair in pairs]
            return answer_logits(self.model, tokens, rows, self.pairs.metric, hooks, last)

    def metric(
        self, pairs: Sequence[int], layer: int, resid: Float[Tensor, "row pos d_model"], hooks: Hooks, begin: int = 0
    ) -> Float[Tensor, " row"]:
        """The metric of :meth:`logits`."""
        logits = self.logits(pairs, layer, resid, hooks, begin)
        return task_metric(logits, [self.pairs[pair] for pair in pairs], self.pairs.metric)

    def _before(self, begin: int) -> Prefix:
        """Keys and values of all kept prompts before a position."""
        if self._prefix is None or self._prefix.length < begin:
            differ = int(self._first[sorted(self.kept)].max())
            length = differ if begin <= differ else self.tokens.shape[1] - 1
            run = partial(end_logits, self.model)
            self._prefix = Prefix.in_parts(self.model, self.tokens[:, :length], run, PATCH_ROWS)
        return self._prefix.cut(begin)

    @torch.no_grad()
    def effects(
        self,
        pairs: PerPatch,
        layers: PerPatch,
        heads: PerPatch,
        replacements: Float[Tensor, "patch pos d_head"] | None = None,
    ) -> tuple[Float[np.ndarray, " patch"], float]:
        """Fall of the metric when one component's clean output is replaced at all positions, one patch a row.

        Args:
            heads: the number of heads stands for the layer's MLP.
            replacements: what by; the corrupt outputs if not given.

        Returns:
            The effects, and what they cost in forward-pass equivalents. Layers and positions that are not run do not
            count, nor those that a row runs before its own because others of its forward begin there. A patch that
            was asked for before counts again although it is not run again. Pairs that are not kept run once more.
        """
        beyond = np.setdiff1d(pairs, sorted(self.kept))
        if len(beyond):
            if replacements is not None:
                raise ValueError(f"pair {beyond[0]} is not kept: only corrupt outputs can replace its heads'")
            return self._effects_beyond(beyond, pairs, layers, heads)
        cost = float((self._share[pairs] * (1 - layers / self.n_layers)).sum())
        known = self._known[pairs, layers, heads] if replacements is None else np.full(len(pairs), np.nan)
        missing = np.flatnonzero(np.isnan(known))
        begins, ends = self._first[pairs[missing]], self._length[pairs[missing]]
        for part in partition(self.n_layers - layers[missing], begins, ends):
            rows, begin, end = missing[part], int(begins[part].min()), int(ends[part].max())
            writes: dict[str, list[Write]] = {}
            for layer in np.unique(layers[rows]).tolist():
                for mlp in (False, True):
                    here = np.flatnonzero((layers[rows] == layer) & ((heads[rows] == self.n_heads) == mlp))
                    if not len(here):
                        continue
                    place, head = self._place[pairs[rows[here]]], heads[rows[here]]
                    if replacements is not None:
                        values = replacements[rows[here], begin:end]
                    elif mlp:
                        values = self.corrupt_mlp[layer][place, begin:end]
                    else:
                        values = self.corrupt_z[layer][place, begin:end, head]
                    index = (here, slice(None)) if mlp else (here, slice(None), head)
                    hook = Site("mlp" if mlp else "attn", layer).hook
                    writes.setdefault(hook, []).append(Write(index, values))
            first = int(layers[rows].min())
            resid = self.resid[first][self._place[pairs[rows]], begin:end]
            patched = self.metric(pairs[rows].tolist(), first, resid, patch_hooks(writes), begin)
            known[rows] = self.metric_[0, pairs[rows]] - patched.cpu().numpy()
        if replacements is None:
            self._known[pairs, layers, heads] = known
        return known, cost

    def _effects_beyond(
        self, beyond: Int[np.ndarray, " pair"], pairs: PerPatch, layers: PerPatch, heads: PerPatch
    ) -> tuple[Float[np.ndarray, " patch"], float]:
        """:meth:`effects` where some pairs are not kept."""
        effects, cost = np.zeros(len(pairs)), 0.0
        kept = ~np.isin(pairs, beyond)
        if kept.any():
            effects[kept], cost = self.effects(pairs[kept], layers[kept], heads[kept])
        for begin in range(0, len(beyond), PATCH_ROWS):
            part = beyond[begin : begin + PATCH_ROWS]
            run = CleanRun.of(self.model, self.pairs.subset(part.tolist()), mlps=self.mlps)
            here = np.isin(pairs, part)
            effects[here], more = run.effects(np.searchsorted(part, pairs[here]), layers[here], heads[here])
            cost += run.forwards + more
        return effects, cost

    @torch.no_grad()
    def run(
        self,
        pairs: PerRow,
        patches: Sequence[Patch],
        read: Sequence[tuple[Site, PerRow]] = (),
        *,
        every_token: bool = False,
    ) -> Outcome:
        """The clean prompts of some pairs, each as often as it is named, with patches in place. ``read``: sites, with a
        position for every row. ``every_token``: whether the logits of all tokens are looked at, for ``top``, ``kl`` and
        ``off_target``."""
        n = len(pairs)
        outcome = Outcome(
            self.metric_[0, pairs],
            self.preferred_[pairs],
            np.full(n, -1),
            np.full(n, 0.0 if every_token else np.nan),
            np.full(n, 0.0 if every_token else np.nan),
            tuple(self.at(site, pairs, positions, corrupt=False).float().cpu() for site, positions in read),
        )
        if every_token:
            clean = self._unpatched(pairs.tolist())
            outcome.top[:] = [int(clean[pair].argmax()) for pair in pairs.tolist()]
        prompts = [self.pairs[pair] for pair in pairs.tolist()]
        for rows, logits in self.patched(pairs, patches, read, outcome.read, every_token=every_token):
            named = [prompts[row] for row in rows.tolist()]
            outcome.metric[rows] = task_metric(logits, named, self.pairs.metric).cpu().numpy()
            outcome.preferred[rows] = preferred_answers(logits, named).cpu().numpy()
            if every_token:
                outcome.top[rows] = logits.argmax(-1).cpu().numpy()
                before = torch.stack([clean[pair] for pair in pairs[rows].tolist()])
                for values, masked in ((outcome.kl, False), (outcome.off_target, True)):
                    log_p, log_q = (_log_p(side, named, masked) for side in (before, logits))
                    values[rows] = kl_divergence(log_p, log_q).cpu().numpy()
        return outcome

    def patched(
        self,
        pairs: PerRow,
        patches: Sequence[Patch],
        read: Sequence[tuple[Site, PerRow]] = (),
        kept: Sequence[Float[Tensor, "row ..."]] = (),
        *,
        every_token: bool = False,
    ) -> Iterator[tuple[Int[np.ndarray, " part"], Float[Tensor, "part d_vocab"]]]:
        """Forward by forward, rows that a patch changes and their logits; with gradients where they are enabled. What
        is read goes to ``kept``."""
        changed = np.stack([np.ones(len(pairs), dtype=bool) if p.rows is None else p.rows for p in patches])
        starts = np.array([np.zeros_like(pairs) if p.positions is None else p.positions for p in patches])
        starts = np.where(changed, starts, np.iinfo(int).max).min(0) * takes_prefix(self.model)
        layers = np.where(changed, [[p.site.layer] for p in patches], self.n_layers).min(0)
        edited = np.flatnonzero(changed.any(0))
        begins, ends = starts[edited], self._length[pairs[edited]]
        for part in partition(self.n_layers - layers[edited], begins, ends):
            rows, begin, end = edited[part], int(begins[part].min()), int(ends[part].max())
            first = int(layers[rows].min())
            writes: dict[str, list[Write]] = {}
            for patch, mask in zip(patches, changed[:, rows], strict=True):
                if mask.any():
                    write = patch.write(np.flatnonzero(mask), rows[mask], begin, end)
                    writes.setdefault(patch.site.hook, []).append(write)
            readers: dict[str, list[Reader]] = {}
            for values, (site, positions) in zip(kept, read, strict=True):
                if site.layer >= first:
                    reader = partial(_read, site, positions[rows] - begin, rows, values)
                    readers.setdefault(site.hook, []).append(reader)
            resid = self.resid[first][self._place[pairs[rows]], begin:end]
            hooks = patch_hooks(writes, readers)
            yield rows, self.logits(pairs[rows].tolist(), first, resid, hooks, begin, every_token=every_token)
            shares = (self._length[pairs[rows]] - begin) / self._length[pairs[rows]]
            self.forwards += float(shares.sum()) * (1 - first / self.n_layers)

    def _unpatched(self, pairs: Iterable[int]) -> dict[int, Float[Tensor, " d_vocab"]]:
        """Logits of the clean prompts, from the last layer on: what lies before is kept."""
        missing = sorted(set(pairs) - self._clean_logits.keys())
        for begin in range(0, len(missing), PATCH_ROWS):
            chunk, last = missing[begin : begin + PATCH_ROWS], self.n_layers - 1
            logits = self.logits(chunk, last, self.resid[last][self._place[chunk]], {}, every_token=True)
            self._clean_logits |= dict(zip(chunk, logits.float(), strict=True))
            self.forwards += len(chunk) / self.n_layers
        return self._clean_logits


def partition(layers: PerRow, begins: PerRow, ends: PerRow) -> list[Int[np.ndarray, " part"]]:
    """Rows parted into forwards such that all together cost least, among parts of neighbours by begin and layers. A
    forward runs the most ``layers`` of its rows', from the first of their ``begins`` to the last of their ``ends``."""
    order = np.lexsort((-layers, begins))
    layers, begins, ends = layers[order], begins[order], ends[order]
    least, cuts = np.zeros(len(order) + 1), [0]
    for end in range(1, len(order) + 1):
        first = max(0, end - MOST_ROWS)
        sizes = np.arange(end - first, 0, -1)
        longest, deepest = (np.maximum.accumulate(values[first:end][::-1])[::-1] for values in (ends, layers))
        positions = sizes * (longest - begins[first:end])
        costs = least[first:end] + deepest * (OVERHEAD + positions)
        costs[(positions > MOST_POSITIONS) & (sizes > 1)] = np.inf
        cuts.append(first + int(costs.argmin()))
        least[end] = costs.min()
    parts, end = [], len(order)
    while end:
        parts.append(order[cuts[end] : end])
        end = cuts[end]
    return parts[::-1]


def _read(site: Site, positions: PerRow, rows: PerRow, kept: Tensor, activation: Tensor) -> None:
    seen = np.flatnonzero(positions >= 0)  # before the forward's first position nothing has changed
    index = (seen, positions[seen])
    at_site = activation[index if site.head is None else (*index, site.head)]
    kept[torch.from_numpy(rows[seen])] = at_site.float().cpu()


def _log_p(
    logits: Float[Tensor, "row d_vocab"], pairs: Sequence[PromptPair], masked: bool
) -> Float[Tensor, "row d_vocab"]:
    """log p of the next token; where it is none of the pair's answers and wrong answers if ``masked``."""
    logits = logits.float().clamp(min=NEVER)  # some families' padding has −∞
    for row, pair in zip(logits, pairs if masked else (), strict=False):
        row[[*pair.answers, *pair.wrong_answers]] = NEVER
    return logits.log_softmax(-1)
