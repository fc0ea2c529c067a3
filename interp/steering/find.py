"""The codes of a topic or a behaviour, found from a few texts that have it and some that do not.

Nothing is filtered by hand. A code *fires* in a text if it is chosen at any token of it.

``by="difference"``, for steering: the codes that add up to what the positive texts have more than the negative ones.

* The difference of the means of a head's output over the tokens of both kinds of texts is what contrastive activation
  addition adds (Rimsky et al. 2023, arXiv 2312.06681). Here the differences of all heads are written as sums of codes,
  less their codebook's mean, by what the heads write (:func:`matching_pursuit`). A head that differs much has several
  codes, most have none.
* What counts is what it brings about. The *target* are the tokens that the positive texts have and others do not
  (:mod:`interp.steering.target_tokens`). Along the gradient of their log p in the *negative* texts an error weighs
  more. Heads are left out at which adding the difference would not raise it, to first order.
* ``effect``: by how much, nats per token, a code with its weight does.

``by="detection"``, for reading: of each head or site the code that is surest to tell the texts apart, −log10 p of the
hypergeometric test, if p ≤ .05. It need not bring about what it tells of.

Half of the texts choose by themselves, and the other half judges what they chose: precision, recall, p and q are of
texts that did not choose. By detection nothing else is returned. By difference all texts choose what is returned, and
a code that the half alone did not choose has no verdict.

When it misleads: texts that differ in more than the topic (length, style, language) give codes of the difference. By
difference q is controlled over what the half chose; those of it that all texts chose too look a little better than
they are. Codes are weighted to be added all together: some lower the target, and a few of them alone are not the
nearest that so few could come. Where a norm stands behind W_O (Gemma), heads of different layers are compared before
it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls
from scipy.stats import false_discovery_control, hypergeom
from torch import Tensor

from interp.bottlenecks.attach import groups_at
from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes, count_codes, distinct
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.kinds.metric_codebook import output_map
from interp.errors import InputError, whole_number
from interp.models import Model, model_device, resolve_site
from interp.progress import Stage, silent
from interp.steering.code_set import CodeSet, FoundCode, Verdict
from interp.steering.target_tokens import TargetTokens, find_target
from interp.steering.texts import Readings, TokenizedTexts, batches, grouped, read_texts, tokenize, watched


def target_gradients(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    target: TargetTokens,
    texts: TokenizedTexts,
    *,
    stage: Stage = silent,
) -> dict[str, Float[Tensor, "group d_in"]]:
    """Gradients of the target's weighted log p, nats per token, if one vector is added to a site at every token of the
    texts. One forward and one backward pass over these.
    """
    device = model_device(model)
    places = {name: resolve_site(model, name) for name in codebooks}
    words, weights = target.tokens.to(device), target.weights.to(device)
    begin = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_()}
    gains: dict[str, Tensor] = {}
    with stage("reading gradients", len(texts.tokens)) as advance:
        for tokens, counted in batches(texts):
            with torch.enable_grad(), watched(model, places, begin) as seen:
                log_p = model(tokens.to(device))[counted.to(device)].float().log_softmax(-1)
                grads = torch.autograd.grad((log_p[:, words] @ weights).sum(), list(seen.values()))
            by_hook = dict(zip(seen, grads, strict=True))
            for name, book in codebooks.items():
                gain = grouped(by_hook[places[name].hook], places[name].head, book).float().cpu()[counted]
                gains[name] = gains.get(name, 0) + gain.sum(0)
            advance(len(tokens))
    return {name: total / int(texts.counted.sum()) for name, total in gains.items()}


EXACT = 1e-5  # what may be left of a vector, as a share of its length: rounding is not told in codes


def matching_pursuit(
    codes: Sequence[Float[np.ndarray, "_ _"]], vectors: Sequence[Float[np.ndarray, " _"]], n: int
) -> list[tuple[int, int, float]]:
    """Places, codes and their weights, above 0, whose sums are as near to the vectors as may be: non-negative
    orthogonal matching pursuit (Bruckstein, Elad & Zibulevsky 2008), of all places together.

    One code after another is taken, wherever it tells most: the one by which, with its best weight, the sum of squares
    of all that is left falls most. After each the weights of its place are fitted anew; those of others would not
    change. So a place whose vector is long, or well told by its codes, has many, and another none.

    Args:
        codes, vectors: of every place, [code, d_in], of one code or more, and [d_in]; places may differ in both.
        n: codes of all places together, at most: fewer if no other code points along what is left, or a weight comes
            out as 0.
    """
    codes, vectors = ([site_codes.astype(np.float64) for site_codes in codes], [v.astype(np.float64) for v in vectors])
    lengths = [np.maximum(np.linalg.norm(site_codes, axis=1), 1e-12) for site_codes in codes]
    taken: list[list[int]] = [[] for _ in codes]
    weights = [np.zeros(0) for _ in codes]

    def look(place: int) -> tuple[float, int]:
        """By how much the length of what is left would fall along the code to take next, and that code."""
        left = vectors[place] - weights[place] @ codes[place][taken[place]]
        if np.linalg.norm(left) <= EXACT * np.linalg.norm(vectors[place]):
            return 0.0, 0
        along = codes[place] @ left / lengths[place]
        along[taken[place]] = 0
        return float(along.max()), int(along.argmax())

    gains = [look(place) for place in range(len(codes))]
    for _ in range(min(n, sum(map(len, codes)))):
        best = int(np.argmax([gain for gain, _ in gains]))
        if gains[best][0] <= 0:
            break
        taken[best].append(gains[best][1])
        weights[best], _ = nnls(codes[best][taken[best]].T, vectors[best])
        gains[best] = look(best)
    return [
        (place, code, float(weight))
        for place in range(len(codes))
        for code, weight in zip(taken[place], weights[place], strict=True)
        if weight > 0
    ]


RANKINGS = ("difference", "detection")
DETECTED = -np.log10(0.05)
"""Least detection of a code that is looked at for reading; the judging half has the last word."""
FRACTION, AT_LEAST = 0.5, 4
"""Codes in which differences of means are told: as a share of the heads, or other places, where these help; and at
least."""
EMPHASIS = 8.0
"""How much more often than along any other direction an error along the target's gradient counts, of the difference
told in codes."""
LEAST = 6  # texts of each kind: with fewer than three to choose by no code could be detected


def find_codes(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    by: str = "difference",
    seed: SupportsIndex = 0,
    stage: Stage = silent,
) -> CodeSet:
    """Find the codes that bring about what positive texts have and negative ones do not, or that tell them apart.

    >>> positive = [f"The dog {what}." for what in ("barked", "ran home", "sleeps", "loves bones", "ate", "is here")]
    >>> negative = [f"The car {what}." for what in ("is red", "was late", "broke", "is new", "turned", "is here")]
    >>> found = find_codes(model, codebooks, positive, negative)

    One forward pass over all texts; by difference another, and a backward pass, over the negative ones, and over half
    of them once more. :class:`InputError`: fewer than :data:`LEAST` texts of a kind, a text in both, an empty or too
    long one, no codebooks, or no code (by difference: no token) that separates the texts.

    Args:
        positive, negative: of copies only the first counts, since one could choose a code that the other judges.
        by: see the module's docstring.
        seed: of the split into halves, 0 or more.
    """
    positive, negative = _without_copies(positive), _without_copies(negative)
    _check(model, codebooks, positive, negative, by)
    if (seed := whole_number("seed", seed)) < 0:
        raise InputError(f"seed {seed}: it must be 0 or more")
    texts = tokenize(model, [*positive, *negative])
    is_positive = np.arange(len(positive) + len(negative)) < len(positive)
    heldout = _split(is_positive, seed)
    read = read_texts(model, codebooks, texts, is_positive + 2 * heldout, stage=stage)
    places = [
        place
        for name, book in codebooks.items()
        for place in _places(model, name, book, read, texts, is_positive, heldout)
    ]
    if by == "detection":
        chosen = choice = _by_detection(places, is_positive, heldout)
        why = "no code tells the positive texts from the negative ones (p ≤ .05): give more texts"
    else:
        choose = partial(_by_difference, model, codebooks, texts, read, places, is_positive, stage)
        chosen, choice = choose(np.ones_like(heldout)), []
        with contextlib.suppress(InputError):  # half of them are too few
            choice = choose(~heldout)
        why = "at no site does the difference between the texts raise the positive ones' tokens: give more texts, or "
        why += "rank by detection"
    if not chosen:
        raise InputError(why)
    verdicts = _judge(choice, texts.counted.sum(1).numpy(), is_positive, heldout)
    codes = tuple(
        FoundCode(at.site, code, weight, effect, float(at.detection[code]), verdicts.get((at.site, code)))
        for at, code, weight, effect in chosen
    )
    return CodeSet(codes, by, seed, len(positive), len(negative))


@dataclass(frozen=True)
class _Place:
    """A head, or another site, and where each of its codes fires."""

    site: str
    # name, group: its codebook's, and its own among the codebook's
    name: str
    group: int
    # how each code differs from its codebook's mean; of other bottlenecks, the codes' own
    vectors: Float[np.ndarray, "code d_in"]
    tokens: Int[np.ndarray, "text code"]  # of each text, those at which the code fires
    detection: Float[np.ndarray, " code"]  # −log10 p on the choosing half
    # of the means over positive and negative texts: of all, and of the choosing half
    differences: Float[np.ndarray, "texts d_in"]


_Chosen = tuple[_Place, int, float, float | None]  # a code, its weight and its effect
_KINDS = (((1, 3), (0, 2)), ((1,), (0,)))
"""Kinds of texts as they are read, positive and negative: of all, and of the choosing half."""


def _places(
    model: Model,
    name: str,
    book: Bottleneck,
    read: Readings,
    texts: TokenizedTexts,
    is_positive: Bool[np.ndarray, " text"],
    heldout: Bool[np.ndarray, " text"],
) -> list[_Place]:
    ids = read.ids[name]
    tokens = _counts(ids, texts, book.config.n_codes)
    detection = -_log10_p(tokens > 0, is_positive, ~heldout)
    site, groups = resolve_site(model, name), ids.shape[2]
    heads = site.kind == "attn" and site.head is None and groups > 1
    names = [f"{name}.h{g}" for g in range(groups)] if heads else [name]
    vectors = _from_mean(book).numpy()
    vectors = np.broadcast_to(vectors, (groups, *vectors.shape[1:]))  # heads may share one group of codes
    means = [[read.mean(name, kinds) for kinds in kind_pair] for kind_pair in _KINDS]
    differences = np.stack([(positive - negative).numpy() for positive, negative in means], 1)
    parts = zip(names, vectors, tokens.swapaxes(0, 1), detection, differences, strict=True)
    return [_Place(at, name, g, *part) for g, (at, *part) in enumerate(parts)]


def _by_detection(
    places: Sequence[_Place], is_positive: Bool[np.ndarray, " text"], heldout: Bool[np.ndarray, " text"]
) -> list[_Chosen]:
    """The surest code of each place, surest first."""
    candidates = []
    for place in places:
        # of equal detections the code that fires at more tokens of positive texts
        share = place.tokens[is_positive & ~heldout].sum(0) / (1 + place.tokens[~heldout].sum(0))
        code = int((place.detection + 1e-6 * share).argmax())
        if place.detection[code] >= DETECTED - 1e-9:
            # how many times the code is in the difference of means by itself
            vector = place.vectors[code]
            along = float(vector @ place.differences[0] / max(float(vector @ vector), 1e-12))
            candidates.append((place, code, _short(max(0.0, along)), None))
    return sorted(candidates, key=lambda chosen: -chosen[0].detection[chosen[1]])


def _by_difference(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    texts: TokenizedTexts,
    read: Readings,
    places: Sequence[_Place],
    is_positive: Bool[np.ndarray, " text"],
    stage: Stage,
    choosing: Bool[np.ndarray, " text"],
) -> list[_Chosen]:
    """Codes that add up to the difference of means, those of most effect first."""
    of = int(not choosing.all())
    positive, negative = (texts.at(kind & choosing) for kind in (is_positive, ~is_positive))
    target = find_target(positive, negative, read.expectation(_KINDS[of][1]))
    gains = target_gradients(model, codebooks, target, negative, stage=stage)
    helpful, codes, differences = [], [], []
    for place in places:
        difference, gain = place.differences[of], gains[place.name][place.group].numpy()
        if difference @ gain > 0:
            write = _write_map(model, place)
            helpful.append((place, gain))
            codes.append(_compared(place.vectors, gain, write))
            differences.append(_compared(difference, gain, write))
    n = max(AT_LEAST, int(FRACTION * len(helpful)))
    candidates: list[tuple[_Place, int, float, float]] = []
    for number, code, weight in matching_pursuit(codes, differences, n):
        place, gain = helpful[number]
        candidates.append((place, code, _short(weight), float(weight * place.vectors[code] @ gain)))
    return [*sorted(candidates, key=lambda chosen: -chosen[3])]


def _without_copies(texts: Sequence[str]) -> list[str]:
    """Texts that differ by more than the space around them, as ``interp.steering.topics.read_lines`` has them."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(text.strip(), text)
    return list(first.values())


def _check(
    model: Model, codebooks: Mapping[str, Bottleneck], positive: Sequence[str], negative: Sequence[str], by: str
) -> None:
    if by not in RANKINGS:
        raise InputError(f"ranking {by!r}: choose {' or '.join(RANKINGS)}")
    if not codebooks:
        raise InputError("no codebooks to find codes in")
    for name, book in codebooks.items():
        if by == "difference" and not isinstance(book, Dictionary):
            raise InputError(f"a {book.kind} at {name}: only codebooks have a mean to differ from; rank by detection")
        site = resolve_site(model, name)
        if site.kind != "attn" and groups_at(model, site, book) is not None:
            shared = f"the codebook at {name} has {book.config.groups} groups that share out its vector"
            raise InputError(f"{shared}: codes are found in books of one group, or of one a head")
    for kind, texts in (("positive", positive), ("negative", negative)):
        if len(texts) < LEAST:
            needed = f"at least {LEAST} different ones are needed, half of them to judge by"
            raise InputError(f"{len(texts)} {kind} texts: {needed}")
    for text in {text.strip() for text in positive} & {text.strip() for text in negative}:
        raise InputError(f"text {text!r} is among the positive and the negative texts")


def _split(is_positive: Bool[np.ndarray, " text"], seed: int) -> Bool[np.ndarray, " text"]:
    """Which texts are held out: half of each kind."""
    generator = np.random.default_rng(seed)
    heldout = np.zeros(len(is_positive), dtype=bool)
    for kind in (is_positive, ~is_positive):
        texts = generator.permutation(np.flatnonzero(kind))
        heldout[texts[: len(texts) // 2]] = True
    return heldout


def _counts(
    ids: Int[Tensor, "text pos group k"], texts: TokenizedTexts, n_codes: int
) -> Int[np.ndarray, "text group code"]:
    """At how many tokens of each text each code fires; one that takes two slots of a token counts once."""
    rows = zip(distinct(ids.long()), texts.counted, strict=True)
    return torch.stack([count_codes(row[counted], n_codes, ids.shape[2]) for row, counted in rows]).numpy()


def _log10_p(
    fires: Bool[np.ndarray, " text *code"], is_positive: Bool[np.ndarray, " text"], among: Bool[np.ndarray, " text"]
) -> Float[np.ndarray, "*code"]:
    """log10 of the chance of at least so many positive texts among those in which a code fires."""
    hits = fires[among & is_positive].sum(0)
    pairs = np.stack([hits, fires[among].sum(0)], -1)
    # many codes share their counts, and the test is slow
    different, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    n_positive = (among & is_positive).sum()
    log_p = hypergeom.logsf(different[:, 0] - 1, among.sum(), n_positive, different[:, 1]) / np.log(10)
    return log_p[index].reshape(hits.shape)


def _write_map(model: Model, place: _Place) -> Float[np.ndarray, "d_in d_in"]:
    """By what vectors of a place are compared: of a head, what it writes, so that heads compare with each other."""
    site = resolve_site(model, place.site)
    if site.kind != "attn":
        return np.eye(place.vectors.shape[-1])
    weights = model.blocks[site.layer].attn.W_O.detach().float().cpu()
    # a codebook of the whole z has one vector for all heads, which write together
    weights = weights.flatten(0, 1) if site.head is None else weights[site.head]
    return output_map(weights[None])[0].numpy()


def _compared(
    vectors: Float[np.ndarray, "*vector d_in"], gain: Float[np.ndarray, " d_in"], write: Float[np.ndarray, "d_in d_in"]
) -> Float[np.ndarray, "*vector d_in+1"]:
    """What vectors write, with what that is along the gain once more, as one more coordinate."""
    length = np.linalg.norm(np.linalg.solve(write, gain))
    along = vectors @ gain * (EMPHASIS**0.5 / length)
    return np.concatenate([vectors @ write, along[..., None]], -1)


def _judge(
    choice: Sequence[_Chosen],
    n_tokens: Int[np.ndarray, " text"],
    is_positive: Bool[np.ndarray, " text"],
    heldout: Bool[np.ndarray, " text"],
) -> dict[tuple[str, int], Verdict]:
    """The verdicts of held-out texts, by site and code."""
    if not choice:
        return {}
    positive = heldout & is_positive
    counts = [place.tokens[:, code] for place, code, *_ in choice]
    p_values = [min(1.0, 10 ** float(_log10_p(tokens > 0, is_positive, heldout))) for tokens in counts]
    verdicts, q_values = {}, false_discovery_control(p_values)
    for (place, code, *_), tokens, p, q in zip(choice, counts, p_values, q_values, strict=True):
        fires = tokens > 0
        in_texts, at_tokens = int(fires[heldout].sum()), int(tokens[heldout].sum())
        verdicts[place.site, code] = Verdict(
            precision=float(fires[positive].sum() / in_texts) if in_texts else None,
            recall=float(fires[positive].mean()),
            token_precision=float(tokens[positive].sum() / at_tokens) if at_tokens else None,
            token_recall=float(tokens[positive].sum() / n_tokens[positive].sum()),
            p_value=p,
            q_value=float(q),
        )
    return verdicts


def _short(weight: float) -> float:
    """Four digits, so that it is the same wherever it is written down."""
    return float(f"{weight:.4g}")


@torch.no_grad()
def _from_mean(book: Bottleneck) -> Float[Tensor, "group code d_in"]:
    """How every code differs from its codebook's mean; of other bottlenecks, what the code adds."""
    if isinstance(book, Dictionary):
        return (book.codes.detach().float() - book.means()).cpu()
    config = book.config
    ids = torch.arange(config.n_codes, device=book.device)[:, None, None].expand(-1, config.groups, 1)
    ids = ids if config.groups > 1 else ids[:, 0]
    strength = torch.ones(ids.shape, device=book.device)
    vectors = book.difference(Codes(ids, strength), Codes(torch.full_like(ids, NO_CODE), strength))
    return vectors.float().cpu().reshape(config.n_codes, config.groups, -1).transpose(0, 1)
