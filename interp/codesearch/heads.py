"""What heads do on ordinary text: where they look, what their codes say, and in which circuits they are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from interp.circuits.references import ExactEffects, load_reference, reference_names
from interp.codesearch.labels import LEAST, MIXED, RARE, Labels
from interp.codesearch.look_patterns import RELATIONS
from interp.errors import InputError
from interp.models.sites import parse_site

NAMES = 3  # commonest names that are told of a head


@dataclass(frozen=True)
class CoarseCode:
    """A coarse code of a head: its share of the tokens, its label, and what it writes, both empty if unknown."""

    code: str
    share: float
    text: str
    f1: float
    writes: str


@dataclass(frozen=True)
class HeadSummary:
    """One head on the text of its labels, the half that chose none."""

    head: str
    # share of tokens at which it looks most at each relation, by falling share; the first is always there
    looks: list[tuple[str, float]]
    # share of attention · |value| that goes to the first of them, as far as the two largest places tell it
    weight: float
    # the commonest names of its coarse codes, of its own ones without those, each with its share of tokens
    names: list[tuple[str, float]]
    named: float  # share of the tokens whose code has a name
    f1: float  # mean F1 of its codes, rare ones left out
    # tasks of whose circuit it is a member, with its effect as a share of the gap
    circuits: list[tuple[str, float]]
    codes: list[CoarseCode]  # its coarse codes, the commonest first
    # kl_without, kl_described: KL divergence of the model's next token, in nats, where the head's output is its mean,
    # and where its rule and codes stand for it, see `benchmarks/head_descriptions.py`; None if not measured
    kl_without: float | None = None
    kl_described: float | None = None


def summarise_heads(labels: Labels, model: str | None = None) -> list[HeadSummary]:
    """Every head of some labels, in order; ``model`` names the model whose measured circuits are looked into.
    :class:`InputError`: labels of before it was kept where heads look, or of no heads."""
    looks = labels.about.get("looks")
    if not looks:
        raise InputError("these labels do not tell where heads look: build the index and its labels again")
    references = [] if model is None else [load_reference(name) for name in reference_names(model=model)]
    circuits = [
        (reference.task, reference.effects() / reference.gap, reference.members())
        for reference in references
        if isinstance(reference, ExactEffects)
    ]
    return [_summary(labels, head, of_head, circuits) for head, of_head in looks.items()]


def _summary(
    labels: Labels,
    head: str,
    looks: dict[str, list[float]],
    circuits: Sequence[tuple[str, Float[np.ndarray, "layer head"], Bool[np.ndarray, "layer head"]]],
) -> HeadSummary:
    """``circuits``: task, effects as shares of the gap, and members."""
    begin, n = labels.starts[head]
    firings, f1 = (labels.columns[name][begin : begin + n] for name in ("firings", "f1"))
    common = _common(labels.coarse or labels, head)
    named = [(text, part) for text, part in common if part and text not in (RARE, MIXED)]
    order = np.argsort([-part for part in looks["tokens"]], kind="stable").tolist()
    site, measured = parse_site(head), firings >= LEAST
    at = site.layer, site.head
    member_of = [(task, float(effects[at])) for task, effects, members in circuits if members[at]]
    return HeadSummary(
        head,
        [(RELATIONS[i], looks["tokens"][i]) for i in order if i == order[0] or looks["tokens"][i]],
        looks["weight"][order[0]],
        named[:NAMES],
        sum(part for _, part in named),
        float(f1[measured].mean()) if measured.any() else 0.0,
        sorted(member_of, key=lambda circuit: -abs(circuit[1])),
        [] if labels.coarse is None else _codes(labels.coarse, head),
        *labels.about.get("kl", {}).get(head, (None, None)),
    )


def _common(labels: Labels, head: str) -> list[tuple[str, float]]:
    """Labels of a head's codes, each with its share of the tokens, the commonest first."""
    begin, n = labels.starts[head]
    firings, texts = (labels.columns[name][begin : begin + n] for name in ("firings", "text"))
    counts = Counter[str]()
    for text, count in zip(texts, firings.tolist(), strict=True):
        counts[text] += count
    return [(text, count / max(counts.total(), 1)) for text, count in counts.most_common()]


def _codes(coarse: Labels, head: str) -> list[CoarseCode]:
    every = [(code, label) for code in range(coarse.starts[head][1]) if (label := coarse.of(head, code))]
    total = max(sum(label.firings for _, label in every), 1)
    return [
        CoarseCode(coarse.name(head, code), label.firings / total, label.text, label.f1, label.writes)
        for code, label in sorted(every, key=lambda entry: -entry[1].firings)
    ]
