"""Heads at single positions: reading what they write there, and writing something else in its place.

A *slot* is a head, or an MLP, at one of the task's roles. A forward with slots changed starts at the first of their
layers and at the first of their positions: what lies before is the same as in the clean run, whose residual streams,
keys and values are kept. So a change at END in the last third of the layers costs a fiftieth of a forward pass.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import Progress, answer_logits, check_context, end_logits, equal_length_batches
from interp.models import HookFunction, Model, Site, model_device, parse_site
from interp.models.partial_forward import Prefix, starting_at
from interp.prompts.pairs import PromptPair, PromptPairs

PAIRS_AT_ONCE = 64
TOKENS_AT_ONCE = 256
"""Positions that one forward runs: enough to keep a few cores busy where each row runs one."""
NEVER = -1e4
"""The logit of a token that does not come; finite, so that differences are."""


@dataclass(frozen=True, order=True)
class Slot:
    """Where something is said: ``a17.h4 @ S2``."""

    layer: int
    site: Site
    role: str

    @classmethod
    def of(cls, site: str, role: str) -> "Slot":
        parsed = parse_site(site)
        return cls(parsed.layer, parsed, role)

    def __str__(self) -> str:
        return f"{self.site} @ {self.role}"

    def pick(self, at_hook: Tensor, rows: Tensor, positions: Tensor) -> Float[Tensor, "row d"]:
        """Of what passes at the hook, this slot's part of each row."""
        index = (rows, positions) if self.site.head is None else (rows, positions, self.site.head)
        return at_hook[index]

    def put(
        self, at_hook: Tensor, rows: Tensor, positions: Tensor, values: Float[Tensor, "row d"], *, add: bool
    ) -> None:
        """Write it, or add it to what stands there."""
        index = (rows, positions) if self.site.head is None else (rows, positions, self.site.head)
        at_hook[index] = values.to(at_hook) + (at_hook[index] if add else 0)


@dataclass(frozen=True)
class Edit:
    """What stands at a slot in place of what the model writes there.

    Attributes:
        rows: those that are changed; all if not given.
        add: to what stands there.
    """

    slot: Slot
    values: Float[Tensor, "row d"]
    rows: Bool[np.ndarray, " row"] | None = None
    add: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        preferred: the token the model likes best among the pair's answers and wrong answers.
        off_target: KL from the clean prompt of the next token, answers and wrong answers left out, in nats; NaN
            unless it was asked for.
        read: what stands at the slots that were asked for.
    """

    metric: Float[np.ndarray, " row"]
    preferred: Int[np.ndarray, " row"]
    off_target: Float[np.ndarray, " row"]
    read: dict[Slot, Float[Tensor, "row d"]]


@dataclass(frozen=True)
class _CleanRun:
    indices: tuple[int, ...]
    tokens: Int[Tensor, "batch pos"]
    prefix: Prefix
    resid: Float[Tensor, "layer batch pos d_model"]


@dataclass
class SlotRunner:
    """Runs both prompts of every pair once, keeps what later forwards of the clean ones need.

    Args:
        slots: what is read of both prompts.
        keep: what later forwards need; without it nothing can be edited.

    Attributes:
        z: [side, pair, d] of every slot; side 0 is clean, 1 corrupt.
        metric: [side, pair].
        preferred: of the clean prompts, see :class:`Outcome`.
        forwards: what was run so far, in forward passes of one prompt.
    """

    model: Model
    pairs: PromptPairs
    slots: Sequence[Slot]
    keep: bool = True
    progress: Progress | None = None
    z: dict[Slot, Float[Tensor, "side pair d"]] = field(init=False, default_factory=dict)
    forwards: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        check_context(self.model, self.pairs)
        n = len(self.pairs)
        self.metric, self.preferred = np.zeros((2, n)), np.zeros(n, dtype=int)
        self._runs: list[_CleanRun] = []
        self._others: dict[tuple[int, ...], Tensor] = {}
        self._where = np.zeros((2, n), dtype=int)  # run and row of every pair
        for indices in equal_length_batches(self.pairs, PAIRS_AT_ONCE):
            self._run_both(indices)
            if self.progress is not None:
                self.progress(len(indices))

    @torch.no_grad()
    def _run_both(self, indices: tuple[int, ...]) -> None:
        rows = [self.pairs[i] for i in indices]
        some = list(indices)
        for side in (0, 1):
            tokens = torch.tensor(
                [pair.corrupt_tokens if side else pair.clean_tokens for pair in rows],
                device=model_device(self.model),
            )
            resid: list[Tensor] = []
            hooks = self._readers(self.slots, rows, 0, partial(self._keep, side, some))
            if self.keep and not side:
                for layer in range(self.model.cfg.n_layers):
                    hooks[f"blocks.{layer}.hook_resid_pre"] = _keeper(resid)
                ends: list[Tensor] = []
                prefix = Prefix(self.model, tokens, partial(self._keep_logits, ends, rows, hooks))
                (logits,) = ends
                self._where[:, some] = np.full(len(some), len(self._runs)), np.arange(len(some))
                self._runs.append(_CleanRun(indices, tokens, prefix, torch.stack(resid)))
            else:
                logits = self._logits(rows, hooks, tokens)
            self.metric[side, some] = task_metric(logits, rows, self.pairs.metric).cpu().numpy()
            if not side:
                self.preferred[some] = _preferred(logits, rows)
        self.forwards += 2 * len(rows)

    def _keep_logits(self, ends: list[Tensor], *run: Any) -> None:
        ends.append(self._logits(*run))

    def _logits(
        self, pairs: Sequence[PromptPair], hooks: dict[str, HookFunction], tokens: Int[Tensor, "row pos"]
    ) -> Float[Tensor, "row d_vocab"]:
        return answer_logits(self.model, tokens, pairs, self.pairs.metric, hooks)

    def _clean_others(self, run: _CleanRun) -> Float[Tensor, "batch d_vocab"]:
        if run.indices not in self._others:
            last = self.model.cfg.n_layers - 1  # what lies before is kept
            with starting_at(self.model, last, run.resid[last]):
                logits = end_logits(self.model, run.tokens)
            self.forwards += len(run.indices) / self.model.cfg.n_layers
            self._others[run.indices] = _others(logits, [self.pairs[i] for i in run.indices])
        return self._others[run.indices]

    def _keep(self, side: int, some: list[int], slot: Slot, found: Tensor) -> None:
        if slot not in self.z:
            self.z[slot] = torch.zeros(2, len(self.pairs), found.shape[-1])
        self.z[slot][side, some] = found

    def cost(self, slot: Slot) -> float:
        """Forward passes of one prompt that a change at the slot costs, in the mean."""
        shares = [1 - pair.positions[slot.role] / len(pair.clean_tokens) for pair in self.pairs]
        return float(np.mean(shares)) * (1 - slot.layer / self.model.cfg.n_layers)

    def positions(self, slot: Slot, pairs: Sequence[PromptPair]) -> Int[Tensor, " row"]:
        return torch.tensor([pair.positions[slot.role] for pair in pairs])

    def _readers(
        self,
        slots: Iterable[Slot],
        rows: Sequence[PromptPair],
        begin: int,
        keep: Callable[[Slot, Tensor], None],
    ) -> dict[str, HookFunction]:
        by_hook: dict[str, list[Slot]] = {}
        for slot in slots:
            by_hook.setdefault(slot.site.hook, []).append(slot)

        def reader(some: list[Slot]) -> HookFunction:
            def hook(x: Tensor) -> None:
                index = torch.arange(len(rows))
                for slot in some:
                    at = (self.positions(slot, rows) - begin).clamp(min=0)
                    keep(slot, slot.pick(x, index, at).float().cpu())

            return hook

        return {name: reader(some) for name, some in by_hook.items()}

    def run(
        self,
        pairs: Int[np.ndarray, " row"],
        edits: Sequence[Edit],
        read: Sequence[Slot] = (),
        *,
        off_target: bool = False,
    ) -> Outcome:
        """The clean prompts of some pairs, each as often as it is named, with slots changed."""
        n = len(pairs)
        found = Outcome(
            np.zeros(n),
            np.zeros(n, dtype=int),
            np.full(n, 0.0 if off_target else np.nan),
            {slot: self.z[slot][0, torch.from_numpy(pairs)].clone() for slot in read},
        )
        changed = np.stack([np.ones(n, dtype=bool) if edit.rows is None else edit.rows for edit in edits])
        at = np.array([[self.pairs[i].positions[edit.slot.role] for i in pairs] for edit in edits])
        starts = np.where(changed, at, np.iinfo(int).max).min(0)
        layers = np.where(changed, [[edit.slot.layer] for edit in edits], self.model.cfg.n_layers).min(0)
        edited = changed.any(0)
        found.metric[:], found.preferred[:] = self.metric[0, pairs], self.preferred[pairs]
        where = self._where[:, pairs]
        for number, run in enumerate(self._runs):
            rows = np.flatnonzero((where[0] == number) & edited)
            rows = rows[np.lexsort((layers[rows], starts[rows]))]
            while len(rows):
                begin = int(starts[rows[0]]) if run.prefix.length else 0
                size = max(1, TOKENS_AT_ONCE // (run.tokens.shape[1] - begin))
                self._run_some(run, rows[:size], where[1], pairs, edits, changed, begin, found, off_target)
                rows = rows[size:]
        return found

    @torch.no_grad()
    def _run_some(
        self,
        run: _CleanRun,
        rows: Int[np.ndarray, " some"],
        places: Int[np.ndarray, " row"],
        pairs: Int[np.ndarray, " row"],
        edits: Sequence[Edit],
        changed: Bool[np.ndarray, "edit row"],
        begin: int,
        found: Outcome,
        off_target: bool,
    ) -> None:
        held = [int(place) for place in places[rows]]
        prompts = [self.pairs[int(i)] for i in pairs[rows]]
        mine = [(edit, np.flatnonzero(mask[rows])) for edit, mask in zip(edits, changed, strict=True)]
        mine = [(edit, inside) for edit, inside in mine if len(inside)]
        layer = min(edit.slot.layer for edit, _ in mine)
        by_hook: dict[str, list[tuple[Edit, np.ndarray]]] = {}
        for edit, inside in mine:
            by_hook.setdefault(edit.slot.site.hook, []).append((edit, inside))

        def patcher(some: list[tuple[Edit, np.ndarray]]) -> HookFunction:
            def hook(x: Tensor) -> Tensor:
                x = x.clone()
                for edit, inside in some:
                    at = self.positions(edit.slot, [prompts[i] for i in inside]) - begin
                    values = edit.values[torch.from_numpy(rows[inside])]
                    edit.slot.put(x, torch.from_numpy(inside), at, values, add=edit.add)
                return x

            return hook

        hooks = {name: patcher(some) for name, some in by_hook.items()}
        later = [slot for slot in found.read if slot.layer >= layer]
        if later:
            index = torch.from_numpy(rows)

            def keep(slot: Slot, values: Tensor) -> None:
                seen = self.positions(slot, prompts) >= begin  # before, nothing has changed
                found.read[slot][index[seen]] = values[seen]

            for name, reader in self._readers(later, prompts, begin, keep).items():
                hooks[name] = _after(hooks[name], reader) if name in hooks else reader
        prefix = run.prefix.cut(begin)
        with starting_at(self.model, layer, run.resid[layer, held, begin:]), prefix.before(self.model, held):
            tokens = run.tokens[held, begin:]
            logits = (
                end_logits(self.model, tokens, hooks) if off_target else self._logits(prompts, hooks, tokens)
            )
        found.metric[rows] = task_metric(logits, prompts, self.pairs.metric).cpu().numpy()
        found.preferred[rows] = _preferred(logits, prompts)
        if off_target:
            before, after = self._clean_others(run)[held], _others(logits, prompts)
            found.off_target[rows] = (before.exp() * (before - after)).sum(-1).clamp(min=0).cpu().numpy()
        length, layers = run.tokens.shape[1], self.model.cfg.n_layers
        self.forwards += len(rows) * (1 - begin / length) * (1 - layer / layers)


def _keeper(kept: list[Tensor]) -> HookFunction:
    return lambda x: kept.append(x.clone())


def _after(patch: HookFunction, read: HookFunction) -> HookFunction:
    def hook(x: Tensor) -> Tensor | None:
        changed = patch(x)
        read(x if changed is None else changed)
        return changed

    return hook


def _preferred(logits: Float[Tensor, "row d_vocab"], pairs: Sequence[PromptPair]) -> Int[np.ndarray, " row"]:
    candidates = [[*pair.answers, *pair.wrong_answers] for pair in pairs]
    return np.array(
        [ids[int(row[ids].argmax())] for ids, row in zip(candidates, logits.float().cpu(), strict=True)]
    )


def _others(
    logits: Float[Tensor, "row d_vocab"], pairs: Sequence[PromptPair]
) -> Float[Tensor, "row d_vocab"]:
    """log p of the next token where it is none of the pair's answers and wrong answers."""
    logits = logits.float().clamp(min=NEVER)  # some families' padding has −∞
    for row, pair in zip(logits, pairs, strict=True):
        row[[*pair.answers, *pair.wrong_answers]] = NEVER
    return logits.log_softmax(-1)
