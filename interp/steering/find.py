"""The codes of a topic or a behaviour, found from a few texts that have it and some that do not.

Half of the texts choose, the other half judge: precision, recall and p of a code are of texts that did not choose it.
Nothing is filtered by hand. A code *fires* in a text if it is chosen at any token of it.

``by="gain"``, for steering: which codes bring about most for what they cost.

* The target is the tokens that the positive texts have and others do not (:mod:`interp.steering.target`).
* ``effect``: how much adding a code's difference from its codebook's mean at every token of the *negative* texts would
  raise the target's log p, in nats per token, to first order: e = ⟨code − mean, gradient⟩.
* What it costs: the information of the next tokens' distribution along the codes, from tokens drawn from the model.
* Of the codes that fire in some text the best four of each head are candidates, and as many are taken as are worth
  their cost together (:mod:`interp.steering.natural_gradient`). They need not tell of the topic at all.

``by="detection"``, for reading: of each head or site the code that is surest to tell the texts apart, −log10 p of the
hypergeometric test on the choosing half, if p ≤ .05. It need not bring about what it tells of.

When it misleads: texts that differ in more than the topic (length, style, language) give codes of the difference; what
is added far from what the texts hold does not do what first and second order say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, hypergeom
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.codebook import Codebook
from interp.bottlenecks.codes import NO_CODE, Codes, distinct
from interp.models import Model, resolve_site
from interp.progress import Stage, silent
from interp.steering.edits import AddCode, SetCode
from interp.steering.natural_gradient import NATS, STEP, choose, information
from interp.steering.pulls import Pull, read_pulls
from interp.steering.texts import TokenizedTexts, read_codes, tokenize
from interp.tasks.errors import InputError

RANKINGS = ("gain", "detection")
DETECTED = -np.log10(0.05)
"""Least detection of a code that is looked at for reading; the judging half has the last word."""
SCALE = 0.25
"""How many times codes that were found are added where nothing is said: of those by gain half of what they were chosen
for, at a quarter of the cost; at more some topics are nothing but their word."""
PER_GROUP = 4
"""Codes of a head, or other site, that are candidates."""
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
        effect, detection: of the other half, see the module's docstring; no effect where codes were found by detection.
    """

    site: str
    code: int
    precision: float | None
    recall: float
    token_precision: float | None
    token_recall: float
    p_value: float
    q_value: float
    effect: float | None
    detection: float


@dataclass(frozen=True)
class FoundCodes:
    """Best first; at a site one or, by gain, some.

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
        """Edits that set the first n; of a site's codes only the best, as one takes the other's place."""
        best = {code.site: code.code for code in reversed(self._first(n))}
        sites = dict.fromkeys(code.site for code in self._first(n))
        return [SetCode(site, best[site], slots, strength) for site in sites]

    def adds(self, n: int, *, scale: float | int = SCALE) -> list[AddCode]:
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
            raise InputError(f"{n} codes: choose 1 to {len(self.codes)}")
        return self.codes[:n]


def find_codes(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    by: str = "gain",
    seed: int = 0,
    stage: Stage = silent,
) -> FoundCodes:
    """Find the codes that bring about what positive texts have and negative ones do not, or that tell them apart.

    One forward pass over all texts; by gain those of :func:`~interp.steering.pulls.read_pulls` over the half that
    chooses.

    Args:
        by: see the module's docstring.
        seed: of the split into halves, and of the tokens drawn.

    Raises:
        InputError: fewer than :data:`LEAST` texts of a kind, a text in both, an empty or too long one, no codebooks,
            or no code (by gain: no token) that tells the texts apart.
    """
    _check(codebooks, positive, negative, by)
    texts = tokenize(model, [*positive, *negative])
    is_positive = np.arange(len(positive) + len(negative)) < len(positive)
    heldout = _split(is_positive, seed)
    places = [
        place
        for name, ids in read_codes(model, codebooks, texts, stage=stage).items()
        for place in _places(model, name, codebooks[name], ids, texts, is_positive, heldout)
    ]
    if by == "gain":
        by_kind = (texts.at(kind & ~heldout) for kind in (is_positive, ~is_positive))
        pulls = read_pulls(model, codebooks, *by_kind, seed=seed, stage=stage)
        chosen = _by_gain(codebooks, places, pulls)
    else:
        chosen = _by_detection(places, is_positive, heldout)
    if not chosen:
        raise InputError("no code tells the positive texts from the negative ones (p ≤ .05): give more texts")
    n_tokens = texts.counted.sum(1).numpy()
    found = [
        FoundCode(
            site=place.site,
            code=code,
            **_judged(place.fires[:, code], place.tokens[:, code], n_tokens, is_positive, heldout),
            q_value=1.0,
            effect=effect,
            detection=float(place.detection[code]),
        )
        for place, code, effect in chosen
    ]
    adjusted = false_discovery_control([code.p_value for code in found])
    found = [replace(code, q_value=float(q)) for code, q in zip(found, adjusted, strict=True)]
    return FoundCodes(tuple(found), by, seed, len(positive), len(negative))


@dataclass(frozen=True)
class _Place:
    """A head, or another site, and where each of its codes fires.

    Attributes:
        name, group: its codebook's, and its own among the codebook's.
        detection: −log10 p on the choosing half.
    """

    site: str
    name: str
    group: int
    fires: Bool[np.ndarray, "text code"]
    tokens: Int[np.ndarray, "text code"]
    detection: Float[np.ndarray, " code"]


_Chosen = tuple[_Place, int, float | None]
"""A code and its effect."""


def _places(
    model: Model,
    name: str,
    book: Bottleneck,
    ids: Int[Tensor, "text pos group k"],
    texts: TokenizedTexts,
    is_positive: Bool[np.ndarray, " text"],
    heldout: Bool[np.ndarray, " text"],
) -> list[_Place]:
    fires, tokens = _counts(ids, texts, book.config.n_codes)
    detection = -_log10_p(fires, is_positive, ~heldout)
    site, groups = resolve_site(model, name), ids.shape[2]
    heads = site.kind == "attn" and site.head is None and groups > 1
    return [
        _Place(f"{name}.h{g}" if heads else name, name, g, fires[:, g], tokens[:, g], detection[g])
        for g in range(groups)
    ]


def _by_detection(
    places: Sequence[_Place], is_positive: Bool[np.ndarray, " text"], heldout: Bool[np.ndarray, " text"]
) -> list[_Chosen]:
    """The surest code of each place, surest first."""
    found = []
    for place in places:
        # of equal detections the code that fires at more tokens of positive texts
        share = place.tokens[is_positive & ~heldout].sum(0) / (1 + place.tokens[~heldout].sum(0))
        code = int((place.detection + 1e-6 * share).argmax())
        if place.detection[code] >= DETECTED - 1e-9:
            found.append((place, code, None))
    return sorted(found, key=lambda chosen: -chosen[0].detection[chosen[1]])


def _by_gain(
    codebooks: Mapping[str, Bottleneck], places: Sequence[_Place], pulls: Mapping[str, Pull]
) -> list[_Chosen]:
    """Codes in the order in which they are worth adding."""
    candidates: list[_Chosen] = []
    moves = []
    vectors_of = {name: _from_mean(book) for name, book in codebooks.items()}
    for place in places:
        # heads may share one group of codes
        vectors = vectors_of[place.name][place.group if len(vectors_of[place.name]) > 1 else 0]
        pull = pulls[place.name]
        gain = (vectors @ pull.gain[place.group]).numpy()
        moved = (pull.scores[:, place.group] @ vectors.T).numpy()
        worth = np.where(place.fires.any(0), np.maximum(gain, 0) ** 2 / ((moved**2).sum(0) + 1e-12), 0)
        for code in np.argsort(-worth, kind="stable")[:PER_GROUP].tolist():
            if worth[code] > 0:
                candidates.append((place, code, float(gain[code])))
                moves.append(moved[:, code])
    if not candidates:
        return []
    gains = np.array([effect for *_, effect in candidates])
    return [candidates[i] for i in choose(gains, information(np.stack(moves, 1)), step=STEP, nats=NATS)]


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
def _from_mean(book: Bottleneck) -> Float[Tensor, "group code d_in"]:
    """How every code differs from its codebook's mean; of other bottlenecks, the codes' own vectors."""
    config = book.config
    ids = torch.arange(config.n_codes, device=book.device)[:, None, None].expand(-1, config.groups, 1)
    ids = ids if config.groups > 1 else ids[:, 0]
    vectors = book.decode(Codes(ids, torch.ones(ids.shape, device=book.device))).float().cpu()
    vectors = vectors.reshape(config.n_codes, config.groups, -1).transpose(0, 1)
    return vectors - book.mean_code().cpu()[:, None] if isinstance(book, Codebook) else vectors
