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

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import PairBatch
from interp.models import Model, hooked, model_device
from interp.models.final_norm import FinalNorm
from interp.models.wiring import Wiring
from interp.tasks.pairs import PromptPair

FULL_SHARE = 0.02
"""Share of the whole logit difference from which on a direct effect counts fully."""

REPEAT_LENGTH = 24
REPEAT_BATCH = 8


class HeadReadout:
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

    needs_gradients = False
    needs_patterns = True

    def __init__(self, model: Model, n_pairs: int) -> None:
        self.model = model
        self.norm, self.wiring = FinalNorm.of(model), Wiring.of(model)
        shape = (n_pairs, model.cfg.n_layers, model.cfg.n_heads)
        self.direct_, self.to_answer_, self.to_wrong_ = (np.full(shape, np.nan) for _ in range(3))
        self.total_ = np.zeros(n_pairs)
        self.written_ = torch.zeros(*shape[1:], model.cfg.d_model)
        self.patterns_: np.ndarray | None = None

    @property
    def tells_writing(self) -> bool:
        """Whether it is known what each head adds to the residual stream."""
        return self.wiring.known

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
                added = self.wiring.added_by_heads(self.model, layer, z[:, -1])
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
        return torch.stack(
            [
                columns[:, list(pair.answers)].mean(1) - columns[:, list(pair.wrong_answers)].mean(1)
                for pair in pairs
            ]
        )


@dataclass(frozen=True)
class HeadRoles:
    """role -> [layer, head] scores in [0, 1]."""

    scores: dict[str, Float[np.ndarray, "layer head"]]

    def of(self, layer: int, head: int) -> dict[str, float]:
        return {role: round(float(score[layer, head]), 4) for role, score in self.scores.items()}


ROLE_BAR = 0.25
"""A head is called by a role from this score on."""


def role_name(roles: dict[str, float]) -> str:
    """The role a head looks like most, or an empty string."""
    best = max(roles, key=roles.__getitem__, default="")
    return best if best and roles[best] >= ROLE_BAR else ""


def head_roles(model: Model, readout: HeadReadout, seed: int = 0) -> HeadRoles:
    """Role scores of every head, from a fed readout and one short run on random repeated tokens.

    Roles of what heads write are left out where that is not known.
    """
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
    found: dict[str, list[Tensor]] = {role: [] for role in diagonals}

    def keep(pattern: Tensor) -> None:
        for role, offset in diagonals.items():
            found[role].append(pattern[:, :, second, second - offset].float().mean((0, 2)).cpu())

    layers = range(model.cfg.n_layers)
    with torch.no_grad(), hooked(model, {f"blocks.{layer}.attn.hook_pattern": keep for layer in layers}):
        model(tokens)
    return {role: torch.stack(rows).numpy().astype(float) for role, rows in found.items()}


def _holding(pair: PromptPair, ids: tuple[int, ...]) -> list[int]:
    """Positions of the clean prompt that hold one of these tokens."""
    return [i for i, token in enumerate(pair.clean_tokens) if token in ids]


def _mask(pairs: tuple[PromptPair, ...], positions, device: torch.device) -> Float[Tensor, "batch key"]:
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
