"""The codes of a topic or a behaviour, found from a few texts that have it and some that do not.

Half of the texts choose, the other half judge. A code *fires* in a text if it is chosen at any token of it. On the
half that chooses, every code of every head gets two numbers:

* ``detection``: how unlikely it is that so many of the texts in which it fires are positive by chance, −log10 p of the
  hypergeometric test;
* ``effect``: how much setting it at every token would raise the log-likelihood of the positive texts and lower that of
  the negative ones, in nats per token, to first order: ⟨code − strongest code there, gradient⟩, from one backward pass.

Only codes that fire in positive texts more than by chance (p ≤ .05 on the choosing half) are looked at: the largest
first-order effects of all belong to codes far from anything the texts hold. A code that tells of a topic need not bring
it about (in a late layer it may be about the token just read), so codes for steering are ranked by effect, and codes
for reading by detection. Of each head the best code is kept, if it has one, nothing is filtered by hand, and precision,
recall and p are those of the other half.

When it misleads: texts that differ in more than the topic (length, style, language) give codes of the difference; a
first-order effect says little about a code far from what is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, hypergeom
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.codes import NO_CODE, Codes, distinct
from interp.models import Model, resolve_site
from interp.progress import Stage, silent
from interp.steering.edits import AddCode, SetCode
from interp.steering.texts import TokenizedTexts, read_texts, tokenize
from interp.tasks.errors import InputError

RANKINGS = ("effect", "detection")
DETECTED = -np.log10(0.05)
"""Least detection of a code that is looked at; it is one of many looked at, so the judging half has the last word."""
LEAST = 6
"""Texts of each kind: with fewer than three to choose by no code could be detected."""


@dataclass(frozen=True)
class FoundCode:
    """
    Attributes:
        precision, recall: of held-out texts: share of those in which it fires that are positive (None if it fires in
            none), share of the positive ones in which it fires.
        token_precision, token_recall: the same of tokens, each counted as its text.
        p_value: hypergeometric, one-sided, held-out texts.
        q_value: after Benjamini and Hochberg over the codes found.
        effect, detection: of the other half, see the module's docstring.
    """

    site: str
    code: int
    precision: float | None
    recall: float
    token_precision: float | None
    token_recall: float
    p_value: float
    q_value: float
    effect: float
    detection: float


@dataclass(frozen=True)
class FoundCodes:
    """One code per head (or other site) that has one, best first.

    Attributes:
        n_positive, n_negative: texts, those that chose and those that judged together.
    """

    codes: tuple[FoundCode, ...]
    by: str
    seed: int
    n_positive: int
    n_negative: int

    def __len__(self) -> int:
        return len(self.codes)

    def sets(self, n: int, *, slots: int = 1, strength: float | int | None = None) -> list[SetCode]:
        """Edits that set the first n."""
        return [SetCode(code.site, code.code, slots, strength) for code in self._first(n)]

    def adds(self, n: int, *, scale: float | int = 1.0) -> list[AddCode]:
        """Edits that add how each of the first n differs from its codebook's mean."""
        return [AddCode(code.site, code.code, scale, from_mean=True) for code in self._first(n)]

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping) -> "FoundCodes":
        """What :meth:`to_json` gave.

        Raises:
            TypeError: something else.
        """
        return cls(**{**stored, "codes": tuple(FoundCode(**code) for code in stored["codes"])})

    def _first(self, n: int) -> tuple[FoundCode, ...]:
        if not 1 <= n <= len(self.codes):
            raise InputError(f"{n} codes: choose 1 to {len(self.codes)}, of one head or site each")
        return self.codes[:n]


def find_codes(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    by: str = "effect",
    seed: int = 0,
    stage: Stage = silent,
) -> FoundCodes:
    """Find the codes that positive texts have and negative ones do not.

    One forward pass over all texts, one backward pass over half of them.

    Args:
        by: see the module's docstring.
        seed: of the split into halves.

    Raises:
        InputError: fewer than :data:`LEAST` texts of a kind, a text in both, an empty or too long one, no codebooks,
            or no code that tells the texts apart.
    """
    _check(codebooks, positive, negative, by)
    texts = tokenize(model, [*positive, *negative])
    is_positive = np.arange(len(positive) + len(negative)) < len(positive)
    heldout = _split(is_positive, seed)
    sign = np.where(is_positive, 1 / (is_positive & ~heldout).sum(), -1 / (~is_positive & ~heldout).sum())
    weights = torch.tensor(np.where(heldout, 0, sign), dtype=torch.float32)
    readings = read_texts(model, codebooks, texts, weights, stage=stage)
    n_tokens = texts.counted.sum(1).numpy()
    found: list[FoundCode] = []
    for name, reading in readings.items():
        book = codebooks[name]
        effect = _vectors(book, reading.pull.shape[0]) @ reading.pull[..., None]
        effect = effect[..., 0].numpy() - reading.pulled[:, None].numpy()
        fires, tokens = _counts(reading.ids, texts, book.config.n_codes)
        detection = -_log10_p(fires, is_positive, ~heldout)
        place = resolve_site(model, name)
        heads = place.kind == "attn" and place.head is None and effect.shape[0] > 1
        # of equal detections the code that fires at more tokens of positive texts
        share = tokens[is_positive & ~heldout].sum(0) / (1 + tokens[~heldout].sum(0))
        score = effect if by == "effect" else detection + 1e-6 * share
        score = np.where(detection >= DETECTED - 1e-9, score, -np.inf)
        best = score.argmax(1)
        for group, code in enumerate(best.tolist()):
            if score[group, code] == -np.inf:
                continue
            found.append(
                FoundCode(
                    site=f"{name}.h{group}" if heads else name,
                    code=code,
                    **_judged(fires[:, group, code], tokens[:, group, code], n_tokens, is_positive, heldout),
                    q_value=1.0,
                    effect=float(effect[group, code]),
                    detection=float(detection[group, code]),
                )
            )
    if not found:
        raise InputError("no code tells the positive texts from the negative ones (p ≤ .05): give more texts")
    found.sort(key=lambda code: -getattr(code, by))
    adjusted = false_discovery_control([code.p_value for code in found])
    found = [
        FoundCode(**{**vars(code), "q_value": float(q)}) for code, q in zip(found, adjusted, strict=True)
    ]
    return FoundCodes(tuple(found), by, seed, len(positive), len(negative))


def _check(
    codebooks: Mapping[str, Bottleneck], positive: Sequence[str], negative: Sequence[str], by: str
) -> None:
    if by not in RANKINGS:
        raise InputError(f"ranking {by!r}: choose {' or '.join(RANKINGS)}")
    if not codebooks:
        raise InputError("no codebooks to find codes in")
    for kind, texts in (("positive", positive), ("negative", negative)):
        if len(texts) < LEAST:
            raise InputError(
                f"{len(texts)} {kind} texts: at least {LEAST} are needed, half of them to judge by"
            )
    for text in set(positive) & set(negative):
        raise InputError(f"text {text!r} is among the positive and the negative texts")


def _split(is_positive: Bool[np.ndarray, " text"], seed: int) -> Bool[np.ndarray, " text"]:
    """Which texts are held out: half of each kind."""
    generator = np.random.default_rng(seed)
    heldout = np.zeros(len(is_positive), dtype=bool)
    for kind in (True, False):
        mine = generator.permutation(np.flatnonzero(is_positive == kind))
        heldout[mine[: len(mine) // 2]] = True
    return heldout


def _counts(
    ids: Int[Tensor, "text pos group k"], texts: TokenizedTexts, n_codes: int
) -> tuple[Bool[np.ndarray, "text group code"], Int[np.ndarray, "text group code"]]:
    """In which texts each code fires, and at how many of their tokens."""
    n_texts, _, groups, _ = ids.shape
    # a code that takes two slots of a token counts once
    once = distinct(ids.long())
    wanted = (once != NO_CODE) & texts.counted[..., None, None]
    text, group = torch.arange(n_texts)[:, None, None, None], torch.arange(groups)[:, None]
    index = (text * groups + group) * n_codes + once
    counts = torch.bincount(index[wanted], minlength=n_texts * groups * n_codes)
    counts = counts.reshape(n_texts, groups, n_codes).numpy()
    return counts > 0, counts


def _log10_p(
    fires: Bool[np.ndarray, "text *code"],
    is_positive: Bool[np.ndarray, " text"],
    among: Bool[np.ndarray, " text"],
) -> Float[np.ndarray, "*code"]:
    """log10 of the chance of at least so many positive texts among those in which a code fires."""
    hits = fires[among & is_positive].sum(0)
    pairs = np.stack([hits, fires[among].sum(0)], -1)
    # many codes share their counts, and the test is slow
    different, which = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    n_positive = (among & is_positive).sum()
    log_p = hypergeom.logsf(different[:, 0] - 1, among.sum(), n_positive, different[:, 1]) / np.log(10)
    return log_p[which].reshape(hits.shape)


def _judged(
    fires: Bool[np.ndarray, " text"],
    tokens: Int[np.ndarray, " text"],
    n_tokens: Int[np.ndarray, " text"],
    is_positive: Bool[np.ndarray, " text"],
    heldout: Bool[np.ndarray, " text"],
) -> dict[str, float | None]:
    positive = heldout & is_positive
    in_texts, at_tokens = int(fires[heldout].sum()), int(tokens[heldout].sum())
    return {
        "precision": float(fires[positive].sum() / in_texts) if in_texts else None,
        "recall": float(fires[positive].mean()),
        "token_precision": float(tokens[positive].sum() / at_tokens) if at_tokens else None,
        "token_recall": float(tokens[positive].sum() / n_tokens[positive].sum()),
        "p_value": min(1.0, 10 ** float(_log10_p(fires, is_positive, heldout))),
    }


@torch.no_grad()
def _vectors(book: Bottleneck, groups: int) -> Float[Tensor, "group code d_in"]:
    """The vector of every code of every group."""
    config = book.config
    ids = torch.arange(config.n_codes, device=book.device)[:, None, None].expand(-1, config.groups, 1)
    ids = ids if config.groups > 1 else ids[:, 0]
    vectors = book.decode(Codes(ids, torch.ones(ids.shape, device=book.device))).float().cpu()
    return vectors.reshape(config.n_codes, config.groups, -1).transpose(0, 1).expand(groups, -1, -1)
