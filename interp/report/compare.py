"""Two runs side by side: what they share, what they do not, and which agrees better with the references."""

import contextlib
from dataclasses import dataclass

import numpy as np

from interp.circuits.circuit import Component
from interp.errors import InputError
from interp.evaluation.recovery import PairedComparison, compare_paired, spearman
from interp.report import wording
from interp.runs.run import Run


@dataclass(frozen=True)
class MemberDifference:
    """A component that is a member in one run only; an effect is ``None`` where that run did not check it."""

    site: str
    in_a: bool
    in_b: bool
    effect_a: float | None
    effect_b: float | None


@dataclass(frozen=True)
class Comparison:
    """Two runs on models of one shape."""

    name_a: str
    name_b: str
    members_a: tuple[str, ...]
    members_b: tuple[str, ...]
    shared: tuple[str, ...]
    jaccard: float | None  # shared members / members of either; ``None`` where neither has any
    spearman: float | None  # rank correlation of the heads' |scores|; ``None`` where one of them is constant
    differing: tuple[MemberDifference, ...]  # components in one circuit only, largest absolute effect first
    aucs: dict[str, tuple[float | None, float | None]]  # reference that both were judged against -> the two ROC AUCs
    recovery: dict[str, PairedComparison]  # reference -> difference in ROC AUC with its paired bootstrap interval
    unpaired: str  # why ``recovery`` is empty, or an empty string

    def rows(self) -> list[tuple[str, ...]]:
        """The comparison as one table: what, the first run, the second run, both together."""
        rows: list[tuple[str, ...]] = [
            ("", self.name_a, self.name_b, ""),
            ("members", str(len(self.members_a)), str(len(self.members_b)), f"{len(self.shared)} shared"),
            ("Jaccard", "", "", wording.number(self.jaccard, 3)),
            ("Spearman of |score|", "", "", wording.number(self.spearman, 3)),
        ]
        for name, aucs in self.aucs.items():
            paired = ""
            if (compared := self.recovery.get(name)) is not None:
                values = (compared.difference, *compared.interval)
                paired = "{} [{}, {}]".format(*(wording.signed(value, 3) for value in values))
            rows.append((f"ROC AUC, {name}", *(wording.number(auc, 3) for auc in aucs), paired))
        if self.unpaired:
            rows.append(("paired difference", "", "", self.unpaired))
        for part in self.differing:
            effects = (
                "not checked" if effect is None else wording.signed(effect, 3)
                for effect in (part.effect_a, part.effect_b)
            )
            rows.append((part.site, *effects, f"only in {self.name_a if part.in_a else self.name_b}"))
        return rows


def compare_runs(run_a: Run, run_b: Run) -> Comparison:
    """Compare two runs; their ROC AUCs only where both scored the same pairs, pair by pair.

    :class:`InputError` of models with different numbers of layers or heads.
    """
    scores = run_a.scores, run_b.scores
    if scores[0].shape != scores[1].shape:
        shapes = " and ".join("{} layers of {} heads".format(*per_head.shape) for per_head in scores)
        raise InputError(f"the runs are on models of {shapes}: only runs on models of one shape can be compared")
    name_a, name_b = _names(run_a, run_b)
    members_a, members_b = (tuple(part.site for part in run.members) for run in (run_a, run_b))
    shared = tuple(site for site in members_a if site in members_b)
    either = {*members_a, *members_b}
    unpaired, common = _why_unpaired(run_a, run_b), _common(run_a, run_b)
    return Comparison(
        name_a=name_a,
        name_b=name_b,
        members_a=members_a,
        members_b=members_b,
        shared=shared,
        jaccard=len(shared) / len(either) if either else None,
        spearman=spearman(*(np.abs(per_head).ravel() for per_head in scores)),
        differing=_differing(run_a, run_b, either - set(shared)),
        aucs={
            name: (run_a.recovery[in_a].roc_auc, run_b.recovery[in_b].roc_auc) for name, (in_a, in_b) in common.items()
        },
        recovery={} if unpaired else _paired(run_a, run_b),
        unpaired=unpaired,
    )


def _names(run_a: Run, run_b: Run) -> tuple[str, str]:
    """What tells the runs apart: their methods, and whatever else differs."""
    titles = {"task": "", "model": "", "seed": "seed ", "n_pairs": "n_pairs "}
    differ = {key: title for key, title in titles.items() if getattr(run_a, key) != getattr(run_b, key)}
    first, second = (
        " ".join([run.method, *(f"{title}{getattr(run, key)}" for key, title in differ.items())])
        for run in (run_a, run_b)
    )
    return (first, second) if first != second else (f"{first} (1)", f"{second} (2)")


def _differing(run_a: Run, run_b: Run, sites: set[str]) -> tuple[MemberDifference, ...]:
    parts_a, parts_b = ({part.site: part for part in run.components} for run in (run_a, run_b))
    differing = []
    for site in sites:
        absent = Component(site=site, layer=0, score=0.0)
        a, b = parts_a.get(site, absent), parts_b.get(site, absent)
        differing.append(MemberDifference(site, a.in_circuit, b.in_circuit, a.effect, b.effect))
    return tuple(sorted(differing, key=lambda d: (-max(abs(d.effect_a or 0), abs(d.effect_b or 0)), d.site)))


def _why_unpaired(run_a: Run, run_b: Run) -> str:
    """An empty string where a paired comparison with a reference is possible."""
    if any("heads_per_pair" not in run.arrays for run in (run_a, run_b)):
        return "no interval: a run has no scores per pair"
    if run_a.model != run_b.model or run_a.provenance.pairs != run_b.provenance.pairs:
        return "no interval: the runs are not on the same model and pairs"
    if not _common(run_a, run_b):
        return "no reference in common"
    return ""


def _common(run_a: Run, run_b: Run) -> dict[str, tuple[str, str]]:
    """References that both were judged by: what the first calls it and what the second does, under a name for both.

    One's own goes by what it holds: two files can have one name, and one file several.
    """
    judged_a, judged_b = run_a.recovery, run_b.recovery
    reference_a, reference_b = run_a.settings.reference, run_b.settings.reference
    common = {name: (name, name) for name in judged_a if name in judged_b and name not in (reference_a, reference_b)}
    a, b = run_a.own_reference, run_b.own_reference
    is_same = a is not None and b is not None and np.array_equal(a.heads, b.heads) and a.gap == b.gap
    if is_same and reference_a in judged_a and reference_b in judged_b:
        common[reference_a if reference_a == reference_b else f"{reference_a} = {reference_b}"] = (
            reference_a,
            reference_b,
        )
    return common


def _paired(run_a: Run, run_b: Run) -> dict[str, PairedComparison]:
    per_a, per_b = (np.asarray(run.arrays["heads_per_pair"], dtype=float) for run in (run_a, run_b))
    paired = {}
    for name, (in_a, _) in _common(run_a, run_b).items():
        # a reference that is not at hand, or has no members: there is no AUC
        with contextlib.suppress(InputError):
            paired[name] = compare_paired(per_a, per_b, run_a.reference(in_a).members())
    return paired
