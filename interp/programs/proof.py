"""Setting codes: does the model answer as if a variable had another value, and what do later heads then say?

A code is set by z + c(new) − c(own), so that whatever else a head says stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.stream import Progress
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.models import Site
from interp.programs.codes import Variable, class_means, ids, usual_codes, vectors_of
from interp.programs.schema import Transition
from interp.programs.slots import Edit, HeadAtRole, SlotRunner

DRAWS = 20  # of every random control; the held-out prompts are dealt out to them


@dataclass(frozen=True)
class HeadCodebook:
    """A slot's codebook and the codes of all prompts."""

    book: MetricCodebook
    fitted: Int[np.ndarray, "side pair"]
    judged: Int[np.ndarray, "side held_out"]
    # a number for every code, the same for codes that stand for the same value
    meaning: Int[np.ndarray, " code"]

    def vectors(self, codes: Int[np.ndarray, " row"]) -> Float[Tensor, "row d"]:
        return vectors_of(self.book, codes)


@dataclass(frozen=True)
class Answers:
    """What the model answers on the held-out prompts under one way of setting the codes."""

    metric: float
    flipped: float  # share whose preferred answer is another than the unedited model's
    off_target: float  # KL of the next token from the unedited model's, answers left out, in nats


@dataclass(frozen=True)
class NamedVariable:
    """A variable and the slots that tell it."""

    variable: Variable  # of the prompts of fitting and, behind them, the held-out ones
    coded: Mapping[HeadAtRole, HeadCodebook]


@dataclass(frozen=True)
class VariableSet:
    variable: str  # several are joined by " + "
    slots: tuple[HeadAtRole, ...]
    n: int  # held-out prompts that have a value and another one to be set
    metric_clean: float
    # `set` (the usual code of another value), `own` (that of their own value), `random` (the change of `set` turned at
    # random, its length kept), `heads` (that change at random heads), `codes` (random codes of the same codebooks),
    # `means` (class means in place of codes)
    by: dict[str, Answers]


def answers_by_field(outcome: VariableSet) -> dict[str, Any]:
    """As the fields of :class:`~interp.programs.schema.Interchange` are called."""
    values = {
        f"{name}_{arm}": getattr(answers, name)
        for arm, answers in outcome.by.items()
        for name in ("metric", "flipped", "off_target")
    }
    return {name if name == "metric_set" else name.removesuffix("_set"): value for name, value in values.items()}


def set_variables(
    runner: SlotRunner,
    variables_set: Sequence[NamedVariable],
    fit_z: Mapping[HeadAtRole, Tensor],
    seed: int = 0,
    *,
    controls: bool = True,
) -> VariableSet | None:
    """Set variables to other values at the slots that tell them; ``None`` where there is no other to be set.

    A variable that has one of a pair's two answers gets the other: names change places. Else the value is drawn.

    Args:
        runner: of the held-out prompts.
        variables_set: with no slot in common.
        fit_z: what stood at the slots on the prompts that codes were fitted to.
        controls: what comes of ``set`` and ``own`` alone if not.
    """
    rng = np.random.default_rng(seed)
    n, pairs = len(runner.pairs), np.arange(len(runner.pairs))
    changes: dict[str, dict[HeadAtRole, Tensor]] = {}
    for named in variables_set:
        changes_by_arm = changes_of(runner, named, fit_z, rng, controls)
        if changes_by_arm is None:
            return None
        for arm, by_slot in changes_by_arm.items():
            changes.setdefault(arm, {}).update(by_slot)
    arms = [[Edit(slot, runner.z(slot)[0] + by) for slot, by in arm.items()] for arm in changes.values()]
    if controls and (elsewhere := _at_random_heads(runner.model.cfg.n_heads, changes["set"], rng)):
        arms.append(elsewhere)
    after = runner.run(np.tile(pairs, len(arms)), stacked(arms, n), every_token=controls)
    flipped = after.preferred != np.tile(runner.preferred, len(arms))
    means = [values.reshape(-1, n).mean(1).tolist() for values in (after.metric, flipped, after.off_target)]
    by = {arm: Answers(*numbers) for arm, *numbers in zip((*changes, "heads"), *means, strict=False)}
    name = " + ".join(named.variable.name for named in variables_set)
    return VariableSet(name, tuple(changes["set"]), n, float(runner.metric[0].mean()), by)


def changes_of(
    runner: SlotRunner,
    named: NamedVariable,
    fit_z: Mapping[HeadAtRole, Tensor],
    rng: np.random.Generator,
    controls: bool,
    new: Int[np.ndarray, " pair"] | None = None,
) -> dict[str, dict[HeadAtRole, Float[Tensor, "pair d"]]] | None:
    """What is added to the slots of a variable on every held-out pair, in each way; ``new``: the values to be set."""
    coded, variable = named.coded, named.variable
    n_fitted, n_values = next(iter(coded.values())).fitted.shape[1], len(variable.values)
    before, current = variable.ids[:, :n_fitted], variable.ids[0, n_fitted:]
    usual = {slot: usual_codes(c.fitted, before, n_values, 1) for slot, c in coded.items()}
    if new is None:
        known = np.any([codes >= 0 for codes in usual.values()], axis=0)
        new = _other_values(current, before, known, _answers(runner, variable, current), rng)
    if new is None:
        return None
    codes = {slot: c.judged[0] for slot, c in coded.items()}

    def moved(to: Mapping[HeadAtRole, Int[np.ndarray, " pair"]]) -> dict[HeadAtRole, Tensor]:
        # where no code stands for a value, a slot says what it said
        return {
            slot: c.vectors(np.where(to[slot] < 0, codes[slot], to[slot])) - c.vectors(codes[slot])
            for slot, c in coded.items()
        }

    changes = {
        "set": moved({slot: usual[slot][new] for slot in coded}),
        "own": moved({slot: usual[slot][current] for slot in coded}),
    }
    if controls:
        drawn = {slot: rng.integers(c.book.config.n_codes, size=len(current)) for slot, c in coded.items()}
        changes["codes"] = moved(drawn)
        changes["random"] = {slot: _turned(change, rng) for slot, change in changes["set"].items()}
        changes["means"] = {}
        for slot in coded:
            mean = class_means(fit_z[slot].numpy(), before, n_values)
            changes["means"][slot] = torch.from_numpy(mean[new] - mean[current]).float().nan_to_num()
    return changes


def stacked(arms: Sequence[Sequence[Edit]], n: int) -> list[Edit]:
    """Several arms of edits of the same ``n`` rows, as one batch of copies of them."""
    copies = []
    for number, edits in enumerate(arms):
        for edit in edits:
            rows = np.zeros((len(arms), n), dtype=bool)
            rows[number] = True if edit.rows is None else edit.rows
            values = edit.values.new_zeros(len(arms), *edit.values.shape)
            values[number] = edit.values
            copies.append(Edit(edit.slot, values.flatten(0, 1), rows.ravel(), edit.add))
    return copies


def _answers(runner: SlotRunner, variable: Variable, current: Int[np.ndarray, " pair"]) -> Int[np.ndarray, " pair"]:
    """The other answer of each pair whose value is the right or the wrong one; else −1."""
    number = {str(value).strip(): i for i, value in enumerate(variable.values)}
    decode = runner.model.tokenizer.decode
    right, wrong = (
        np.array([number.get(decode([tokens[0]]).strip(), -1) for tokens in answers])
        for answers in zip(*((pair.answers, pair.wrong_answers) for pair in runner.pairs), strict=True)
    )
    return np.where(current == right, wrong, np.where(current == wrong, right, -1))


def _other_values(
    current: Int[np.ndarray, " pair"],
    before: Int[np.ndarray, "side fitted"],
    known: Bool[np.ndarray, " value"],
    answers: Int[np.ndarray, " pair"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " pair"] | None:
    """What each pair's clean value is set to: that of ``answers`` if codes stand for it, else one that a clean prompt
    has, else a corrupt one's."""
    clean, either_side = (np.intersect1d(values, np.flatnonzero(known)) for values in (before[0], before))
    pool = clean if len(clean) > 1 else either_side
    if len(pool) < 2 or len(current) < 2:
        return None
    drawn = np.array([rng.choice(pool[pool != value]) for value in current], dtype=int)
    return np.where(np.isin(answers, pool), answers, drawn)


def _turned(change: Float[Tensor, "row d"], rng: np.random.Generator) -> Float[Tensor, "row d"]:
    """Each row in a random direction, as long as it was; one direction for every :data:`DRAWS`-th row."""
    drawn = torch.from_numpy(rng.standard_normal((DRAWS, change.shape[-1]))).float()
    directions = torch.nn.functional.normalize(drawn, dim=-1)[torch.arange(len(change)) % DRAWS]
    return directions * change.norm(dim=-1, keepdim=True)


def _at_random_heads(n_heads: int, changes: Mapping[HeadAtRole, Tensor], rng: np.random.Generator) -> list[Edit]:
    """The same change at other heads of the same layers and roles, drawn anew for every :data:`DRAWS`-th row."""
    edits = []
    for slot, change in changes.items():
        taken = {other.site.head for other in changes if other.layer == slot.layer}
        free = [head for head in range(n_heads) if head not in taken]
        if slot.site.head is None or not free:  # a part of the change would be no control of all of it
            return []
        drawn = rng.choice(free, size=DRAWS)[np.arange(len(change)) % DRAWS]
        for head in np.unique(drawn):
            other = HeadAtRole(slot.layer, Site("attn", slot.layer, int(head)), slot.role)
            edits.append(Edit(other, change, drawn == head, add=True))
    return edits


def passed_on(
    runner: SlotRunner,
    coded: Mapping[HeadAtRole, HeadCodebook],
    n_pairs: int,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> list[Transition]:
    """Every sender's changes to all slots behind it, on the first pairs."""
    rng = np.random.default_rng(seed)
    transitions = []
    for sender, codebook in coded.items():
        progress(1)
        later = [slot for slot in coded if slot.layer > sender.layer]
        meaning = codebook.meaning[codebook.judged]
        pairs = np.flatnonzero(meaning[0] != meaning[1])[:n_pairs]
        if not later or len(pairs) < 2:
            continue
        clean, corrupt = map(codebook.vectors, codebook.judged[:, pairs])
        z = runner.z(sender)[0, torch.from_numpy(pairs)]
        arms = [[Edit(sender, z + by)] for by in (corrupt - clean, _turned(corrupt - clean, rng))]
        outcome = runner.run(np.tile(pairs, 2), stacked(arms, len(pairs)), read=later)
        for slot, read in zip(later, outcome.read, strict=True):
            moved, null = read.chunk(2)
            transitions.append(_transition(runner, sender, slot, coded[slot], pairs, moved, null))
    return transitions


def _transition(
    runner: SlotRunner,
    sender: HeadAtRole,
    receiver: HeadAtRole,
    coded: HeadCodebook,
    pairs: Int[np.ndarray, " row"],
    moved: Float[Tensor, "pair d"],
    null: Float[Tensor, "pair d"],
) -> Transition:
    codes = coded.judged[0, pairs]
    clean, corrupt = coded.meaning[coded.judged[:, pairs]]
    share = np.bincount(coded.meaning[coded.judged].ravel(), minlength=coded.meaning.max() + 1)
    share = share / share.sum()
    by_frequency = np.where(clean == corrupt, 0.0, share[corrupt] / np.maximum(1 - share[clean], 1e-9))
    meaning, by_chance = (coded.meaning[ids(coded.book, z)] for z in (moved, null))
    changed = meaning != clean
    stays = torch.from_numpy(~changed)
    spoken = coded.vectors(codes)[stays]
    clean_z = runner.z(receiver)[0, torch.from_numpy(pairs)][stays]
    along = ((moved[stays] * spoken).sum(-1), (clean_z * spoken).sum(-1))
    return Transition(
        **{"from": str(sender), "to": str(receiver)},
        n=len(pairs),
        changes=float(changed.mean()),
        as_predicted=float((meaning == corrupt)[changed].mean()) if changed.any() else 0.0,
        null=float((by_chance != clean).mean()),
        predicted_null=float(by_frequency[changed].mean()) if changed.any() else 0.0,
        strength=float(along[0].sum() / along[1].sum()) if len(spoken) else 1.0,
    )
