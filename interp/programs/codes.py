"""What a head says at a role: the fewest codes that carry its effect there, and what they stand for.

*Effect kept* is the share of the slot's effect that it has when z becomes z + c(corrupt) − c(clean), c the codes of
both prompts. *Reconstruction cost* is the share that is lost when z becomes its own code. A codebook must have both:
one that keeps nothing carries everything when the corrupt side's code is spliced in, and costs everything as well.

Codes are fitted by k-means to what stands at the slot on prompts of their own, clean and corrupt. Vectors are compared
in several ways (:func:`metric_of`). How many codes there are is decided on other prompts, and what they carry is
measured on prompts that neither has seen.

A variable's *AMI* is its adjusted mutual information with the code over held-out prompts, clean and corrupt: 0 for no
relation, 1 for the same partition. Its null permutes codes among prompts of the same side that agree in the other
variables, so that a code which only tells the two sides apart, or the template, gets no other name for it. A name says
what a code can be read as, not that anything reads it so: that is what interchange is for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks.base import Codes
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.programs.slots import Edit, HeadAtRole, SlotRunner
from interp.prompts.pairs import PromptPairs, Value
from interp.stats import mean_interval

LEAST = 5  # training prompts that every code is met by
ENOUGH, MOST_KEPT, MOST_COST = 0.9, 1.1, 0.1
CHOSEN = 0.95, 1.08, 0.08
"""The same where codes are chosen, so that it holds on other prompts; too little adds up along a chain."""
SIZES = ((2, 4, 8), (16, 32), (64, 128, 256))
ROUGH_SIZES = (4, 16, 64)
CONFIRMED = 2  # codebooks that are looked at on all pairs
PER_CODE = 8  # training prompts a code that k-means starts with: some codes get fewer than :data:`LEAST` and go
Metric = Literal["difference", "plain", "contrast"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""How vectors are compared, see :func:`metric_of`; ``plain`` compares them as they are."""
RIDGE = 0.1  # added to the covariance that pairs share, in units of its mean diagonal
FEWEST_PAIRS, FORWARDS = 16, 2.0
"""Pairs by which the number of codes is decided: so many at least, and up to where one change of all of them costs so
many forward passes."""


@dataclass(frozen=True)
class Variable:
    """One thing that varies."""

    name: str
    values: tuple[Value, ...]  # those there are, `None` for prompts without one behind all others
    ids: Int[np.ndarray, "side pair"]  # which value each prompt has; side 0 is clean, 1 corrupt
    given: bool  # the task or the file says it; else it is derived

    @property
    def fault(self) -> str | None:
        """Why nothing can be told of it, if so."""
        _, counts = np.unique(self.ids, return_counts=True)
        if len(counts) < 2:
            return "it is the same in all prompts"
        return "every prompt has a value of its own" if counts.max() == 1 else None


def variables(pairs: PromptPairs, tokenizer: Any) -> list[Variable]:
    """The variables of pairs, given ones first.

    Derived are ``token at ROLE``, ``order of roles``, ``distance ROLE–ROLE`` between neighbours, and ``template``, each
    where it varies. One that tells prompts apart just as one before it does is left out.
    """
    table: dict[str, list[list[Value]]] = {}
    for name in pairs[0].variables.get("clean", {}):
        table[name] = [[pair.variables[side][name] for pair in pairs] for side in ("clean", "corrupt")]
    given = len(table)
    roles = [role for role in pairs[0].positions if all(role in pair.positions for pair in pairs)]
    for role in roles:
        places = [(pair, pair.positions[role]) for pair in pairs]
        tokens = [p.clean_tokens[i] for p, i in places], [p.corrupt_tokens[i] for p, i in places]
        table[f"token at {role}"] = [[tokenizer.decode([token]) for token in side] for side in tokens]
    orders = [sorted(roles, key=pair.positions.__getitem__) for pair in pairs]
    table["order of roles"] = [[" ".join(order) for order in orders]] * 2
    for first, second in zip(orders[0], orders[0][1:], strict=False):
        apart: list[Value] = [pair.positions[second] - pair.positions[first] for pair in pairs]
        table[f"distance {first}–{second}"] = [apart] * 2
    table.setdefault("template", [[pair.template for pair in pairs]] * 2)
    kept: list[Variable] = []
    for i, (name, sides) in enumerate(table.items()):
        values = tuple(sorted({*sides[0], *sides[1]}, key=lambda value: (value is None, str(value))))
        number = {value: k for k, value in enumerate(values)}
        ids = np.array([[number[value] for value in side] for side in sides])
        if i < given or (len(values) > 1 and not any(same_partition(ids, known.ids) for known in kept)):
            kept.append(Variable(name, values, ids, i < given))
    return kept


def same_partition(a: Int[np.ndarray, "..."], b: Int[np.ndarray, "..."]) -> bool:
    return len(set(zip(a.flat, b.flat, strict=True))) == len(np.unique(a)) == len(np.unique(b))


def metric_of(z: Float[Tensor, "2 pair d"], metric: Metric) -> Float[Tensor, "1 d pair"]:
    """What vectors are multiplied with before they are compared.

    D the covariance of the differences within pairs and C that of the pairs' means: ``difference`` compares by D,
    ``contrast`` by C⁻¹ D C⁻¹, as a linear discriminant does. What both prompts of a pair share, such as the template,
    takes fewer codes then.
    """
    clean, corrupt = z
    difference = (clean - corrupt).mT
    if metric == "difference":
        return difference[None]
    mean = (clean + corrupt) / 2
    mean = mean - mean.mean(0)
    shared = mean.mT @ mean
    ridge = RIDGE * shared.diagonal().mean() * torch.eye(len(shared))
    return torch.linalg.solve(shared + ridge, difference)[None]


def fit_few(z: Float[Tensor, "2 pair d"], n_codes: int, metric: Metric = "plain", seed: int = 0) -> MetricCodebook:
    """At most ``n_codes`` codes, each nearest to :data:`LEAST` prompts or more."""
    rows = z.flatten(0, 1)
    config = CodebookConfig(d_in=z.shape[-1], n_codes=n_codes, selection="matching_pursuit", seed=seed)
    book = MetricCodebook(config)
    if metric != "plain" and not torch.equal(z[0], z[1]):
        book.compare_by(metric_of(z, metric))
    book.fit(rows)
    while True:
        met = torch.bincount(book.encode(rows).ids.flatten().long(), minlength=book.config.n_codes)
        kept = torch.arange(len(met)) != met.argmin()
        if int(met.min()) >= LEAST or len(met) == 1:
            kept[:] = True
        tensors = {"codes": book.codes[:, kept].detach(), "counts": met[None, kept], "metric": book.metric}
        book = MetricCodebook.restored(replace(config, n_codes=int(kept.sum())), tensors)
        if kept.all():
            return book


@dataclass(frozen=True)
class KeptEffect:
    """What a codebook keeps of a slot's effect; the sums over pairs that the shares are of."""

    effect: Float[np.ndarray, " pair"]  # fall of the metric with the corrupt prompt's z at the slot
    by_codes: Float[np.ndarray, " pair"]  # with z + c(corrupt) − c(clean)
    by_own_code: Float[np.ndarray, " pair"]  # with c(clean) in place of z

    @property
    def effect_kept(self) -> float:
        return float(self.by_codes.sum() / self.effect.sum())

    @property
    def reconstruction_cost(self) -> float:
        return float(self.by_own_code.sum() / self.effect.sum())

    @property
    def enough(self) -> bool:
        """With a margin, so that it holds on prompts by which the codebook was not chosen."""
        least, most, cost = CHOSEN
        return least <= self.effect_kept <= most and abs(self.reconstruction_cost) <= cost

    @property
    def shortfall(self) -> float:
        """How far it is from carrying everything at no cost."""
        return abs(1 - self.effect_kept) + abs(self.reconstruction_cost)

    @property
    def effect_r2(self) -> float:
        spread = ((self.effect - self.effect.mean()) ** 2).sum()
        return float(1 - ((self.by_codes - self.effect) ** 2).sum() / spread) if spread > 0 else 0.0

    @property
    def absolute_cost(self) -> float:
        return float(np.abs(self.by_own_code).mean() / abs(self.effect.mean()))

    def interval(self, seed: int) -> tuple[float, float]:
        """95 % of the effect, over pairs."""
        low, high = mean_interval(self.effect[:, None], seed)
        return float(low[0]), float(high[0])


def measure(
    runner: SlotRunner, slot: HeadAtRole, books: Sequence[Codebook], pairs: Int[np.ndarray, " pair"]
) -> list[KeptEffect]:
    """What each of some codebooks keeps of a slot's effect on these pairs."""
    z = runner.z(slot)[:, torch.from_numpy(pairs)]
    return kept_by(runner, slot, [book.decode(book.encode(z)).detach() for book in books], pairs)


def kept_by(
    runner: SlotRunner, slot: HeadAtRole, decoded: Sequence[Float[Tensor, "2 pair d"]], pairs: Int[np.ndarray, " pair"]
) -> list[KeptEffect]:
    """The same of what codes of any kind stand for on both sides of these pairs."""
    z = runner.z(slot)[:, torch.from_numpy(pairs)]
    values = [z[1], *(value for c in decoded for value in (z[0] + c[1] - c[0], c[0]))]
    outcome = runner.run(np.tile(pairs, len(values)), [Edit(slot, torch.cat(values))])
    falls = (np.tile(runner.metric[0, pairs], len(values)) - outcome.metric).reshape(len(values), len(pairs))
    return [KeptEffect(falls[0], falls[1 + 2 * i], falls[2 + 2 * i]) for i in range(len(decoded))]


@dataclass(frozen=True)
class _Tried:
    book: MetricCodebook
    kept: KeptEffect
    size: int

    @property
    def rank(self) -> tuple[bool, float]:
        return not self.kept.enough, float(self.size) if self.kept.enough else self.kept.shortfall


def fewest(
    runner: SlotRunner, slot: HeadAtRole, z: Float[Tensor, "2 pair d"], seed: int = 0, *, rough: bool = False
) -> tuple[MetricCodebook, KeptEffect]:
    """The smallest codebook that carries enough on the runner's pairs, and what it carries there; where none carries
    enough, the least short of it.

    By the first metric the sizes of :data:`SIZES` are tried on half of the pairs, a row of them at a time, then sizes
    in between; by the others, where none is enough, the largest. The smallest have to hold on all pairs. Where a change
    at the slot is costly, there are fewer pairs.

    Args:
        rough: look at few sizes by one metric on few pairs, as a slot of little effect deserves.
    """
    n = int(min(len(runner.pairs) // 2, max(FEWEST_PAIRS, FORWARDS / runner.cost(slot))))
    by_rank = attrgetter("rank")
    most = 2 * z.shape[1] // PER_CODE

    def tried(sizes: Iterable[int], metric: Metric) -> list[_Tried]:
        sizes = sorted({size for size in sizes if size <= most})
        books = [fit_few(z, size, metric, seed) for size in sizes]
        return [*map(_Tried, books, measure(runner, slot, books, np.arange(n)), sizes)]

    if rough:
        n = min(n, FEWEST_PAIRS)
        best = min(tried(ROUGH_SIZES, METRICS[0]) or tried([2], METRICS[0]), key=by_rank)
        return best.book, best.kept
    every: list[_Tried] = []
    for sizes in SIZES:
        if sizes[0] <= most and not any(book.kept.enough for book in every):
            every += tried(sizes, METRICS[0])
    best = min(every, key=by_rank)
    every += tried([best.size - best.size // 2 * step // 4 for step in (1, 2, 3)], METRICS[0])
    for metric in METRICS[1:]:
        if min(every, key=by_rank).kept.enough:
            break
        every += tried([most // 2, most], metric)
    chosen = sorted(every, key=by_rank)[:CONFIRMED]
    effects = measure(runner, slot, [book.book for book in chosen], np.arange(min(len(runner.pairs), 2 * n)))
    best = min((replace(book, kept=kept) for book, kept in zip(chosen, effects, strict=True)), key=by_rank)
    return best.book, best.kept


def vectors_of(book: Codebook, codes: Int[np.ndarray, " row"]) -> Float[Tensor, "row d"]:
    chosen = torch.from_numpy(codes)[:, None]
    return book.decode(Codes(chosen, torch.ones(chosen.shape))).detach()


def ids(book: Codebook, z: Float[Tensor, "*prompt d"]) -> Int[np.ndarray, "*prompt"]:
    return book.encode(z).ids[..., 0].numpy().astype(int)


def bits(codes: Int[np.ndarray, "..."]) -> float:
    """Entropy of the codes in use."""
    share = np.bincount(codes.ravel()) / codes.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum()) + 0.0


PERMUTATIONS = 999
SIGNIFICANT = 0.05
STRATUM = 5  # prompts that a stratum has in the mean
DERIVED = 0.1  # AMI above its null by which a derived variable has to be told better than one that the task gives
CLEAR = 0.5  # share of a code's training prompts that have the value which it gets

Key = TypeVar("Key")


@dataclass(frozen=True)
class Name:
    variable: str
    # ami, ami_null: of held-out prompts; the null's mean over permutations
    ami: float
    ami_null: float
    q: float  # Benjamini–Hochberg, over all slots and variables
    accuracy: float  # share of held-out prompts whose value is that of their code
    commonest: float  # share that the commonest value of each side's training prompts gets right
    values: dict[int, Value]  # of the codes that have one


def name_codes(
    fitted: Mapping[Key, Int[np.ndarray, "side pair"]],
    judged: Mapping[Key, Int[np.ndarray, "side held_out"]],
    variables: Sequence[Variable],
    n_fitted: int,
    seed: int = 0,
) -> dict[Key, list[Name]]:
    """The variables that each slot tells, that of highest AMI above its null first: those that are significant and
    better told than by their commonest value.

    Args:
        fitted: codes of the prompts that they were fitted to.
        judged: codes of held-out prompts.
        variables: of both, those of ``fitted`` first.
        n_fitted: pairs of ``fitted``.
    """
    from scipy.stats import false_discovery_control  # half a second

    rng = np.random.default_rng(seed)
    usable = [variable for variable in variables if variable.fault is None]
    tests: list[tuple[Key, Variable, float, float, float]] = []
    for variable in usable:
        values = variable.ids[:, n_fitted:].ravel()
        if len(np.unique(values)) < 2:
            continue
        strata = _strata(variable, usable, n_fitted)
        orders = np.stack([_permuted(strata, rng) for _ in range(PERMUTATIONS)])
        for key, codes in judged.items():
            if len(np.unique(codes)) > 1:
                tests.append((key, variable, *_ami(codes.ravel(), values, orders)))
    q_values = false_discovery_control([p for *_, p in tests]) if tests else ()
    names_by_key: dict[Key, list[Name]] = {key: [] for key in judged}
    for (key, variable, ami, null, _), q in zip(tests, q_values, strict=True):
        if q <= SIGNIFICANT:
            name = _name(variable, fitted[key], judged[key], n_fitted, (ami, null, float(q)))
            names_by_key[key] += [name] * (name.accuracy > name.commonest)
    given = {variable.name for variable in usable if variable.given}

    def rank(name: Name) -> float:
        return name.ami - name.ami_null - DERIVED * (name.variable not in given)

    return {key: sorted(names, key=rank, reverse=True) for key, names in names_by_key.items()}


def _name(
    variable: Variable,
    fitted: Int[np.ndarray, "side pair"],
    judged: Int[np.ndarray, "side held_out"],
    n_fitted: int,
    ami_and_q: tuple[float, float, float],
) -> Name:
    before, after = variable.ids[:, :n_fitted].ravel(), variable.ids[:, n_fitted:].ravel()
    table = contingency(fitted.ravel(), before, int(fitted.max()) + 1, len(variable.values))
    predicted = table.argmax(1)
    clear = (table.max(1) >= CLEAR * table.sum(1)) & (table.sum(1) > 0)
    codes = judged.ravel()
    known = codes < len(predicted)
    right = np.zeros(len(codes), dtype=bool)
    right[known] = predicted[codes[known]] == after[known]
    values = {int(code): variable.values[predicted[code]] for code in np.flatnonzero(clear)}
    # of each side by itself: what only tells clean from corrupt tells no variable
    sides = zip(variable.ids[:, :n_fitted], variable.ids[:, n_fitted:], strict=True)
    commonest = float(np.mean([(side == np.bincount(fit).argmax()).mean() for fit, side in sides]))
    return Name(variable.name, *ami_and_q, float(right.mean()), commonest, values)


def contingency(
    rows: Int[np.ndarray, " prompt"], columns: Int[np.ndarray, " prompt"], height: int, width: int
) -> Int[np.ndarray, "{height} {width}"]:
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)


def _strata(variable: Variable, others: Sequence[Variable], n_fitted: int) -> Int[np.ndarray, " prompt"]:
    """Which prompts may exchange their codes: same side, and same values of the other variables.

    The others are added one by one, those of fewest values first, as long as the variable still varies within strata
    and these have :data:`STRATUM` prompts in the mean.
    """
    values = variable.ids[:, n_fitted:]
    strata = np.repeat([0, 1], values.shape[1])
    for other in sorted(others, key=lambda other: len(np.unique(other.ids[:, n_fitted:]))):
        columns = np.stack([strata, other.ids[:, n_fitted:].ravel()])
        finer = np.unique(columns, axis=1, return_inverse=True)[1].ravel()
        pairs = len(np.unique(np.stack([finer, values.ravel()]), axis=1).T)
        varies = pairs > finer.max() + 1
        if other is not variable and varies and len(finer) >= STRATUM * (finer.max() + 1):
            strata = finer
    return strata


def _permuted(strata: Int[np.ndarray, " prompt"], rng: np.random.Generator) -> Int[np.ndarray, " prompt"]:
    """A random order that leaves every prompt in its stratum."""
    order = np.empty(len(strata), dtype=int)
    order[np.argsort(strata, kind="stable")] = np.lexsort((rng.random(len(strata)), strata))
    return order


def _ami(
    codes: Int[np.ndarray, " prompt"], values: Int[np.ndarray, " prompt"], orders: Int[np.ndarray, "draw prompt"]
) -> tuple[float, float, float]:
    """AMI, its mean over the permutations, and how rarely one of them reaches it."""
    from sklearn.metrics.cluster import expected_mutual_information

    codes, values = (np.unique(labels, return_inverse=True)[1] for labels in (codes, values))
    n, width = len(codes), int(values.max()) + 1
    table = contingency(codes, values, int(codes.max()) + 1, width)
    permuted = (np.bincount(c * width + values) for c in codes[orders])
    weighted = np.arange(n + 1) * np.log(np.maximum(np.arange(n + 1), 1))  # count · log count
    rows, columns, *joint = (
        weighted[counts].sum() / n - np.log(n) for counts in (table.sum(1), table.sum(0), table.ravel(), *permuted)
    )
    information = np.array(joint) - rows - columns
    expected = expected_mutual_information(table, n)
    ami = (information - expected) / ((-rows - columns) / 2 - expected)
    reached = int((information[1:] >= information[0] - 1e-9).sum())
    return float(ami[0]), float(ami[1:].mean()), (1 + reached) / (1 + len(orders))


def usual_codes(
    codes: Int[np.ndarray, "side pair"], values: Int[np.ndarray, "side pair"], n_values: int, least: int
) -> Int[np.ndarray, " value"]:
    """The commonest code of each value; −1 where fewer than ``least`` prompts have it."""
    table = contingency(values.ravel(), codes.ravel(), n_values, int(codes.max()) + 1)
    return np.where(table.sum(1) >= least, table.argmax(1), -1)


def class_means(
    z: Float[np.ndarray, "side pair d"], values: Int[np.ndarray, "side pair"], n_values: int
) -> Float[np.ndarray, "value d"]:
    """Mean of z by value: the baseline without codes; NaN where no prompt has the value."""
    sums, counts = np.zeros((n_values, z.shape[-1])), np.bincount(values.ravel(), minlength=n_values)
    np.add.at(sums, values.ravel(), z.reshape(-1, z.shape[-1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / counts[:, None]
