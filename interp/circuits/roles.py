"""Head roles without a reference: what a head looks like from its attention and from what it writes.

Names after Wang et al. 2022 (arXiv 2211.00593) and Olsson et al. 2022. Every score is in [0, 1] and says "looks
like", never "is": the causal effect stands beside it.

============== =====================================================================================
previous-token attention to the token before, on random repeated tokens
duplicate-token attention from a token's second occurrence to its first, on random repeated tokens
induction      attention from a token's second occurrence to what followed its first, likewise
mover          attention from END to an answer token × what it adds to the logit difference directly
negative-mover the same for heads that take away from it
suppressor     attention from END to the last wrong-answer token × what it adds to the logit difference directly
inhibition     the same attention × the absence of a direct effect: it acts through later heads
============== =====================================================================================

A direct effect (direct logit attribution with the final norm's scale frozen) counts fully from 2 % of the prompt's
whole logit difference on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import Consumer, PairBatch, check_context, end_logits
from interp.errors import InputError
from interp.models import HookFunction, Model, hooked, model_device
from interp.models.residual_writes import FinalNorm, ResidualWrites
from interp.prompts.pairs import SIDES, Metric, PromptPair

LONGEST = 128  # tokens up to which whole attention patterns are kept; of longer prompts the row of END


@dataclass(frozen=True)
class PairView:
    """What :func:`view_pair` read. Sides are ``clean`` and ``corrupt``."""

    pair: PromptPair
    metric: tuple[float, float]  # the task metric on either side
    # of all queries, or of END alone for prompts of more than :data:`LONGEST` tokens
    patterns: Float[np.ndarray, "side layer head query key"]
    # what each head adds at END, after the final norm frozen at that prompt's scale; ``None`` where it is not known
    # what heads add to the residual stream
    written: Float[Tensor, "side layer head d_model"] | None
    norm: FinalNorm

    @property
    def nbytes(self) -> int:
        return self.patterns.nbytes + (0 if self.written is None else self.written.nbytes)

    def tokens(self, side: str) -> tuple[int, ...]:
        return self.pair.clean_tokens if side == "clean" else self.pair.corrupt_tokens

    def pattern(self, side: str, layer: int, head: int) -> Float[np.ndarray, "query key"]:
        return self.patterns[SIDES.index(side), layer, head]

    def logits(self, side: str, layer: int, head: int) -> Float[Tensor, " d_vocab"]:
        """What the head adds to every token's logit directly; constant terms of norm and unembedding left out."""
        if self.written is None:
            raise InputError("what heads write is not known: their outputs do not add up in this model")
        return self.written[SIDES.index(side), layer, head] @ self.norm.unembedding

    def direct(self, side: str, layer: int, head: int) -> tuple[float, float]:
        """What the head adds directly to the answers' mean logit, and to that of the wrong answers."""
        logits = self.logits(side, layer, head)
        right, wrong = (logits[list(ids)].mean() for ids in (self.pair.answers, self.pair.wrong_answers))
        return float(right), float(wrong)


@torch.no_grad()
def view_pair(model: Model, pair: PromptPair, metric: Metric) -> PairView:
    """Run both prompts of a pair once, as two rows of one batch: going from head to head then runs nothing."""
    norm, residual_writes = FinalNorm.of(model), ResidualWrites.of(model)
    length = check_context(model, [pair])
    tokens = torch.tensor([pair.clean_tokens, pair.corrupt_tokens], device=model_device(model))
    rows = slice(None) if length <= LONGEST else slice(-1, None)
    ends: list[Tensor] = []
    patterns: list[Tensor] = []

    hooks: dict[str, HookFunction] = {}
    for layer in range(model.cfg.n_layers):
        attn = f"blocks.{layer}.attn"
        hooks[f"{attn}.hook_z"] = lambda z: ends.append(z[:, -1].clone())
        hooks[f"{attn}.hook_pattern"] = lambda pattern: patterns.append(pattern[:, :, rows].float().cpu())
    hooks[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"] = lambda x: ends.append(x[:, -1].clone())
    logits = end_logits(model, tokens, hooks)
    if not torch.isfinite(logits).all():
        raise InputError("the model gives NaN or infinite logits on this pair: try --dtype float32")
    written = None
    if residual_writes.known:
        *z_ends, resid = ends
        added = [residual_writes.added_by_heads(model, layer, z) for layer, z in enumerate(z_ends)]
        written = torch.stack([norm.direct(x, resid.float()[:, None]) for x in added], 1)
    clean, corrupt = task_metric(logits, [pair, pair], metric).tolist()
    return PairView(pair, (clean, corrupt), torch.stack(patterns, 1).numpy(), written, norm)


FULL_SHARE = 0.02  # share of the whole logit difference from which on a direct effect counts fully

REPEAT_LENGTH = 24
REPEAT_BATCH = 8


class HeadReadout(Consumer):
    """A consumer that reads every head's attention from END and what it writes to the logits there.

    Attributes after feeding:
        direct_: [pair, layer, head], each head's direct contribution to mean answer − mean wrong-answer logit; NaN, and
            ``written_`` 0, where it is not known what heads add to the residual stream (:attr:`tells_writing`).
        total_: [pair], that logit difference as a whole, without what biases of final norm and unembedding add.
        to_answer_, to_wrong_: [pair, layer, head], attention from END to answer tokens, and to the last
            wrong-answer token; NaN where the clean prompt holds none.
        written_: [layer, head, d_model], what each head adds at END after the final norm, on the first pair's clean
            prompt.
        patterns_: [layer, head, query, key], likewise.
    """

    needs_patterns = True

    def __init__(self, model: Model, n_pairs: int) -> None:
        self.model = model
        self.norm, self.residual_writes = FinalNorm.of(model), ResidualWrites.of(model)
        shape = (n_pairs, model.cfg.n_layers, model.cfg.n_heads)
        self.direct_, self.to_answer_, self.to_wrong_ = (np.full(shape, np.nan) for _ in range(3))
        self.total_ = np.zeros(n_pairs)
        self.written_ = torch.zeros(*shape[1:], model.cfg.d_model)
        self.patterns_: np.ndarray

    @property
    def tells_writing(self) -> bool:
        """Whether it is known what each head adds to the residual stream."""
        return self.residual_writes.known

    @torch.no_grad()
    def update(self, batch: PairBatch) -> None:
        rows = list(batch.indices)
        direction = self._direction(batch.pairs)
        resid = batch.clean.resid_end.float()
        self.total_[rows] = (self.norm.direct(resid, resid) * direction).sum(-1).cpu().numpy()
        answer = _mask(batch.pairs, lambda pair: _holding(pair, pair.answers), resid.device)
        wrong = _mask(batch.pairs, lambda pair: _holding(pair, pair.wrong_answers)[-1:], resid.device)
        first = rows.index(0) if 0 in rows else None
        for layer, (z, pattern) in enumerate(zip(batch.clean.z, batch.clean.pattern, strict=True)):
            if self.tells_writing:
                added = self.residual_writes.added_by_heads(self.model, layer, z[:, -1])
                written = self.norm.direct(added, resid[:, None])
                self.direct_[rows, layer] = (written * direction[:, None]).sum(-1).cpu().numpy()
                if first is not None:
                    self.written_[layer] = written[first].cpu()
            from_end = pattern[:, :, -1].float()  # [batch, head, key]
            self.to_answer_[rows, layer] = _mass(from_end, answer)
            self.to_wrong_[rows, layer] = _mass(from_end, wrong)
        if first is not None:
            self.patterns_ = np.stack([p[first].float().cpu().numpy() for p in batch.clean.pattern])

    def _direction(self, pairs: tuple[PromptPair, ...]) -> Float[Tensor, "batch d_model"]:
        columns = self.norm.unembedding
        right, wrong = (
            torch.stack([columns[:, list(ids)].mean(1) for ids in of_pairs])
            for of_pairs in ([pair.answers for pair in pairs], [pair.wrong_answers for pair in pairs])
        )
        return right - wrong


@dataclass(frozen=True)
class HeadRoles:
    """role -> [layer, head] scores in [0, 1]."""

    scores: dict[str, Float[np.ndarray, "layer head"]]

    def of(self, layer: int, head: int) -> dict[str, float]:
        return {role: round(float(score[layer, head]), 4) for role, score in self.scores.items()}


ROLE_BAR = 0.25  # a head is called by a role from this score on


def role_name(roles: dict[str, float]) -> str:
    """The role a head looks like most, or an empty string."""
    best = max(roles, key=roles.__getitem__, default="")
    return best if best and roles[best] >= ROLE_BAR else ""


def head_roles(model: Model, readout: HeadReadout, seed: int = 0) -> HeadRoles:
    """Role scores of every head, from a fed readout and one short run on random repeated tokens. Roles of what heads
    write are left out where that is not known."""
    scores = _repeated_token_roles(model, seed)
    if not readout.tells_writing:
        return HeadRoles(scores)
    share = readout.direct_.mean(0) / (FULL_SHARE * max(abs(readout.total_.mean()), 1e-9))
    to_answer, to_wrong = _mean_known(readout.to_answer_), _mean_known(readout.to_wrong_)
    scores["mover"] = to_answer * np.clip(share, 0, 1)
    scores["negative-mover"] = to_answer * np.clip(-share, 0, 1)
    scores["suppressor"] = to_wrong * np.clip(share, 0, 1)
    scores["inhibition"] = to_wrong * (1 - np.clip(np.abs(share), 0, 1))
    return HeadRoles(scores)


def _repeated_token_roles(model: Model, seed: int) -> dict[str, np.ndarray]:
    """Attention along three diagonals on BOS + r + r, r random tokens without repetition."""
    vocabulary = model.cfg.d_vocab
    length = min(REPEAT_LENGTH, (model.cfg.n_ctx - 1) // 2, vocabulary - 1)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(vocabulary, generator=generator)[:length] for _ in range(REPEAT_BATCH)]
    bos = getattr(model.tokenizer, "bos_token_id", None) or 0
    tokens = torch.stack([torch.cat([torch.tensor([bos]), row, row]) for row in rows]).to(model_device(model))
    second = torch.arange(length + 1, 2 * length + 1)
    diagonals = {"previous-token": 1, "duplicate-token": length, "induction": length - 1}
    attention: dict[str, list[Tensor]] = {role: [] for role in diagonals}

    def keep(pattern: Tensor) -> None:
        for role, offset in diagonals.items():
            attention[role].append(pattern[:, :, second, second - offset].float().mean((0, 2)).cpu())

    layers = range(model.cfg.n_layers)
    with torch.no_grad(), hooked(model, {f"blocks.{layer}.attn.hook_pattern": keep for layer in layers}):
        model(tokens)
    return {role: torch.stack(rows).numpy().astype(float) for role, rows in attention.items()}


def _holding(pair: PromptPair, ids: tuple[int, ...]) -> list[int]:
    """Positions of the clean prompt that hold one of these tokens."""
    return [i for i, token in enumerate(pair.clean_tokens) if token in ids]


def _mask(
    pairs: tuple[PromptPair, ...], positions: Callable[[PromptPair], list[int]], device: torch.device
) -> Float[Tensor, "batch key"]:
    mask = torch.zeros(len(pairs), len(pairs[0].clean_tokens), device=device)
    for row, pair in enumerate(pairs):
        mask[row, positions(pair)] = 1.0
    return mask


def _mass(attention: Float[Tensor, "batch head key"], mask: Float[Tensor, "batch key"]) -> np.ndarray:
    mass = (attention * mask[:, None]).sum(-1)
    mass[mask.sum(-1) == 0] = float("nan")
    return mass.cpu().numpy()


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over pairs that know the value; 0 where none does."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
