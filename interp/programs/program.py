"""The program of a circuit: which head says what at which role, in how many codes, what it stands for, and proof.

No prompt that judges is among those that find the circuit or fit codes, on either side. On those of the discovery it
is decided which heads make the program, how many codes they need and which variable names them; all that is told of
them is of the held-out ones, and a name has to hold there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from interp.activations.means import distinct_roles
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.models import Model, Site
from interp.programs.codes import (
    PER_CODE,
    SIZES,
    Name,
    Variable,
    bits,
    fewest,
    ids,
    kept_by,
    name_codes,
    usual_codes,
    variables,
)
from interp.programs.execute import STEPS, execute
from interp.programs.growth import SIZES as GROWN
from interp.programs.growth import grow
from interp.programs.proof import (
    HeadCodebook,
    NamedVariable,
    VariableSet,
    answers_by_field,
    passed_on,
    set_variables,
    stacked,
)
from interp.programs.schema import Interchange, Place, Program, SlotCodes
from interp.programs.slots import Edit, HeadAtRole, SlotRunner, read_slots
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import apart, held_out_pairs
from interp.stats import mean_interval, ratio_interval

FIT_PAIRS, JUDGE_PAIRS, SPARE_PAIRS = 512, 64, 256
"""Pairs to fit codes and to judge; spare ones take the place of those that share a prompt with others."""
LEAST_PAIRS = 24  # pairs beyond those of the discovery without which nothing is told
CHOOSE_PAIRS, PASS_PAIRS = 64, 32
PLACE_PAIRS = 16  # fewer than every member was patched on before it was settled
GROW_PAIRS = 12
SHARE_PAIRS = 32  # of the judging prompts, for what codes keep of a slot's effect
SEED = 3000  # of the prompts that are drawn for it, the run's own seed added
SHARE = 0.2  # of an MLP's effect, from which on it acts at a role
SMALL = 0.05  # of the gap: codes of slots below are sought among few sizes
LEAST_EFFECT = 1e-3  # of the gap: below, a difference is one of rounding
LEFT = 0.1  # of an MLP's effect: where no more than this is left, earlier roles are not looked at
MOST_SLOTS = 40
MOST_LOST = 0.25  # of the effect: codes that lose more are not set in interchange
TOGETHER = 0.1  # of the gap: variables that move the metric by this are set together, too
EXAMPLES = 3


def find_program(
    task: Task,
    clean: CleanRun,
    members: Sequence[Site],
    effects: Float[np.ndarray, "pair site"],
    *,
    seed: int = 0,
    looks: Mapping[str, str] | None = None,
    stage: Stage = silent,
) -> Program:
    """The program of a circuit's members.

    Args:
        looks: what members look like, by their names.
        clean: of the discovery's pairs.
        effects: of each member on these pairs; NaN where it was not measured.

    What cannot be told stands in the program's notes.
    """
    model, pairs, sites = clean.model, clean.pairs, [str(site) for site in members]
    if not sites:
        return Program(notes=["No program: the circuit has no members."])
    parts = fit_and_judge(task, pairs, model, seed)
    if isinstance(parts, str):
        return Program(notes=[parts])
    fitted, judged = parts
    return _Finder(clean, fitted, judged, seed, looks or {}, stage).program(sites, effects)


def fit_and_judge(task: Task, pairs: PromptPairs, model: Model, seed: int) -> tuple[PromptPairs, PromptPairs] | str:
    """Pairs that codes are fitted to and pairs that judge, beyond those of a discovery; or why there are too few."""
    try:
        most = FIT_PAIRS + JUDGE_PAIRS + SPARE_PAIRS
        others = held_out_pairs(task, model.tokenizer, most, pairs, pairs.counterfactual, seed=SEED + seed)
    except InputError:
        others = pairs.subset([])
    if len(others) < LEAST_PAIRS:
        return (
            f"No program: {len(others)} pairs are left beyond the {len(pairs)} of the discovery, and "
            f"{LEAST_PAIRS} or more are needed; {FIT_PAIRS + JUDGE_PAIRS} are best."
        )
    judged = others.subset(apart(others, pairs)[: min(JUDGE_PAIRS, len(others) // 3)])
    fitted = others.subset(apart(others, judged)[:FIT_PAIRS])
    if min(len(judged), len(fitted)) < LEAST_PAIRS // 3:
        return "No program: too few pairs share no prompt with those that judge or choose."
    return fitted, judged


class _Finder:
    def __init__(
        self,
        clean: CleanRun,
        fitted: PromptPairs,
        judged: PromptPairs,
        seed: int,
        looks: Mapping[str, str],
        stage: Stage,
    ) -> None:
        self.clean, self.model, self.pairs = clean, clean.model, clean.pairs
        self.fitted, self.judged, self.seed, self.stage = fitted, judged, seed, stage
        self.notes: list[str] = []
        self.looks = dict(looks)
        self.inputs: frozenset[HeadAtRole] = frozenset()
        self.opposing: set[HeadAtRole] = set()
        self.carries: set[HeadAtRole] = set()
        """Slots whose codes carry most of the effect on the discovery's pairs: these are set in interchange."""

    def program(self, sites: Sequence[str], effects: Float[np.ndarray, "pair site"]) -> Program:
        roles = distinct_roles([*self.pairs, *self.fitted, *self.judged])
        chosen = self.pairs.subset(range(min(CHOOSE_PAIRS, len(self.pairs))))
        mlps = any(HeadAtRole.of(site, "").site.kind == "mlp" for site in sites)
        kept = self.clean.mlps >= mlps and self.clean.kept.issuperset(range(len(chosen)))
        with self.stage("program's heads", len(chosen) * (not kept) + len(GROWN)) as advance:
            before = self.clean.forwards if kept else 0.0
            clean = self.clean if kept else CleanRun.of(self.model, chosen, mlps=mlps, progress=advance)
            self.chooser = SlotRunner(clean, chosen)
            candidates = [HeadAtRole.of(site, role) for site in sites for role in roles]
            candidates = [slot for slot in candidates if slot.site.kind == "attn"]
            grown, self.inputs = grow(clean, candidates, np.arange(min(GROW_PAIRS, len(chosen))), advance)
            places, slots = self._places(sites, roles, grown, effects[: len(chosen)])
            self.inputs = self.inputs or frozenset(slots)  # of MLPs alone, none is seen to tell another
        with self.stage("prompts for the program", len(self.fitted) + len(self.judged)) as advance:
            self.fit_z, fitting = read_slots(self.model, self.fitted, slots, advance)
            self.judge = SlotRunner.of(self.model, self.judged, mlps=mlps, progress=advance)
        with self.stage("codes", len(slots)) as advance:
            read = {slot: self._codes(slot, advance) for slot in slots}
        coded = {slot: codebook for slot, (_, codebook) in read.items()}
        whole = self.fitted.subset(range(len(self.fitted)))
        whole += [*self.judged, *chosen]
        varying = variables(whole, self.model.tokenizer)
        n, m = len(self.fitted), len(self.judged)
        self.of_chosen = {v.name: replace(v, ids=np.delete(v.ids, range(n, n + m), axis=1)) for v in varying}
        varying = [replace(v, ids=v.ids[:, : n + m]) for v in varying]
        names = self._names(coded, varying)
        self.notes += [f"{v.name}: cannot be told, since {v.fault}." for v in varying if v.fault and v.given]
        named = [self._named(codes, coded[slot], names[slot], varying) for slot, (codes, _) in read.items()]
        coded = {slot: replace(code, meaning=_meaning(code, names[slot])) for slot, code in coded.items()}
        with self.stage("setting codes", len(slots) + 1) as advance:
            interchange = self._interchange(coded, names, varying)
            advance(1)
            passed = passed_on(self.judge, coded, PASS_PAIRS, self.seed, advance)
        program = Program(
            slots=named,
            places=places,
            transitions=passed,
            interchange=[_interchange(outcome) for outcome in interchange],
            looks=self.looks,
            n_fitted=len(self.fitted),
            n_judged=len(self.judged),
            notes=self.notes,
            books={str(slot): codebook.book for slot, codebook in coded.items()},
        )
        with self.stage("running the program", STEPS) as advance:
            groups, executed = execute(program, self.judge, self.seed, advance)
        forwards = round(self.chooser.forwards - before + fitting + self.judge.forwards, 1)
        return program.model_copy(update={"groups": groups, "executed": executed, "forwards": forwards})

    def _places(
        self,
        sites: Sequence[str],
        roles: Sequence[str],
        grown: Collection[HeadAtRole],
        effects: Float[np.ndarray, "pair site"],
    ) -> tuple[list[Place], list[HeadAtRole]]:
        """Where members act, and the slots that are read: what was grown, and MLPs where they have enough effect.

        So are heads, where none was grown.
        """
        runner, rows = self.chooser, np.arange(min(PLACE_PAIRS, len(self.chooser.pairs)))
        self.gap = float((runner.metric[0] - runner.metric[1]).mean())
        wholes = dict(zip(sites, np.nanmean(effects[rows], axis=0), strict=True))
        at: dict[str, dict[str, tuple[float, float, float]]] = {site: {} for site in sites}
        slots: list[tuple[float, HeadAtRole]] = []

        def elsewhere(site: str) -> float:
            return float(wholes[site] - sum(mean for mean, *_ in at[site].values()))

        # the last role first: it is the cheapest, and most MLPs act there alone
        for role in sorted(roles, key=lambda role: -self.pairs[0].positions[role]):
            tried = []
            for site in sites:
                slot = HeadAtRole.of(site, role)
                left = abs(elsewhere(site)) > LEFT * abs(wholes[site])
                if slot in grown or (left and (slot.site.kind == "mlp" or not grown)):
                    tried.append(slot)
            if not tried:
                continue
            edits = stacked([[Edit(slot, runner.z(slot)[1, rows])] for slot in tried], len(rows))
            metric = runner.run(np.tile(rows, len(tried)), edits).metric.reshape(len(tried), len(rows))
            falls = (runner.metric[0, rows] - metric).T
            columns = falls.mean(0), *mean_interval(falls, self.seed)
            for slot, mean, low, high in zip(tried, *columns, strict=True):
                site = str(slot.site)
                at[site][role] = float(mean), float(low), float(high)
                least = max(SHARE * abs(wholes[site]), LEAST_EFFECT * self.gap)
                if mean < 0:
                    self.opposing.add(slot)
                if slot in grown or (abs(mean) >= least and low * high > 0):
                    slots.append((float(abs(mean)), slot))
        places = [Place(site=site, roles=at[site], elsewhere=elsewhere(site)) for site in sites if at[site]]
        without = {*sites} - {str(slot.site) for _, slot in slots}
        if without:
            self.notes.append(f"The program does without {', '.join(sorted(without, key=[*sites].index))}.")
        slots.sort(key=lambda sized: -sized[0])
        self.small = {slot: size < SMALL * self.gap for size, slot in slots}
        if len(slots) > MOST_SLOTS:
            self.notes.append(f"{len(slots) - MOST_SLOTS} places of least effect are not read.")
        return places, sorted(slot for _, slot in slots[:MOST_SLOTS])

    def _codes(self, slot: HeadAtRole, advance: Any) -> tuple[SlotCodes, HeadCodebook]:
        z = self.fit_z[slot]
        book, carried = fewest(self.chooser, slot, z, self.seed, rough=self.small[slot])
        if carried.effect_kept >= 1 - MOST_LOST and abs(carried.reconstruction_cost) <= MOST_LOST:
            self.carries.add(slot)
        judging = np.arange(min(SHARE_PAIRS, len(self.judged)))
        judged_z = self.judge.z(slot)[:, : len(judging)]
        decoded = book.decode(book.encode(judged_z)).detach()
        shift = z.mean(1)[:, None].expand_as(judged_z)
        kept, shifted = kept_by(self.judge, slot, [decoded, shift], judging)
        codes = np.arange(book.config.n_codes)
        coded = HeadCodebook(book, ids(book, z), ids(book, self.judge.z(slot)), codes)
        low, high = kept.interval(self.seed)
        effect = float(kept.effect.mean())
        numbers: dict[str, Any] = {"effect_kept": None, "reconstruction_cost": None}
        has_effect = low * high > 0  # a share of nothing says nothing
        if has_effect:
            names = ("effect_kept", "reconstruction_cost", "effect_r2", "absolute_cost")
            numbers = {name: getattr(kept, name) for name in names} | {"shift_kept": shifted.effect_kept}
            interval = ratio_interval(kept.by_codes, kept.effect, self.seed)
            numbers |= zip(("effect_kept_low", "effect_kept_high"), interval, strict=True)
        numbers |= {"effect": effect, "low": low, "high": high, "bits": bits(coded.judged)}
        numbers |= {"input": slot in self.inputs, "codes": book.config.n_codes}
        slot_codes = SlotCodes(site=str(slot.site), role=slot.role, **numbers)
        if not has_effect:
            self.notes.append(f"{slot}: its effect on the held-out prompts is not off zero, so no share is told.")
        elif not slot_codes.enough and z.shape[1] < FIT_PAIRS:
            wanted = next(size for sizes in SIZES for size in sizes if size * PER_CODE > 2 * z.shape[1])
            self.notes.append(
                f"{slot}: {slot_codes.codes} codes carry {slot_codes.effect_kept:.0%}; {wanted} codes need "
                f"{wanted * PER_CODE // 2 - z.shape[1]} more pairs."
            )
        advance(1)
        return slot_codes, coded

    def _names(
        self, coded: Mapping[HeadAtRole, HeadCodebook], varying: Sequence[Variable]
    ) -> dict[HeadAtRole, list[Name]]:
        """The variable that each slot tells best on the discovery's pairs, if it tells it on those that judge."""
        fitted, n = {slot: codebook.fitted for slot, codebook in coded.items()}, len(self.fitted)
        chosen = {slot: ids(codebook.book, self.chooser.z(slot)) for slot, codebook in coded.items()}
        best = name_codes(fitted, chosen, list(self.of_chosen.values()), n, self.seed)
        judged = {slot: codebook.judged for slot, codebook in coded.items()}
        names = name_codes(fitted, judged, varying, n, self.seed)
        first = {slot: [name.variable for name in best[slot][:1]] for slot in coded}
        return {slot: [name for name in names[slot] if name.variable in first[slot]] for slot in coded}

    def _named(
        self, codes: SlotCodes, coded: HeadCodebook, names: Sequence[Name], varying: Sequence[Variable]
    ) -> SlotCodes:
        n = coded.book.config.n_codes
        clean, corrupt = (np.bincount(side, minlength=n) / len(side) for side in coded.judged)
        update: dict[str, Any] = {
            "shares": {str(code): (round(clean[code], 4), round(corrupt[code], 4)) for code in range(n)},
            "examples": self._examples(codes.role, coded.fitted, n),
        }
        for name in names:
            fields = ("variable", "ami", "ami_null", "q", "accuracy", "commonest")
            update |= {key: getattr(name, key) for key in fields}
            update["values"] = {str(code): value for code, value in name.values.items()}
            variable = next(variable for variable in varying if variable.name == name.variable)
            before = variable.ids[:, : len(self.fitted)]
            usual = usual_codes(coded.fitted, before, len(variable.values), 1)
            update["usual"] = [
                (value, int(code)) for value, code in zip(variable.values, usual, strict=True) if code >= 0
            ]
        return codes.model_copy(update=update)

    def _examples(self, role: str, codes: Int[np.ndarray, "side pair"], n: int) -> dict[str, list[str]]:
        decode = self.model.tokenizer.decode
        examples: dict[str, list[str]] = {}
        for code in range(n):
            examples[str(code)] = []
            for side, row in np.argwhere(codes == code)[:EXAMPLES]:
                pair = self.fitted[row]
                tokens, at = list(pair.corrupt_tokens if side else pair.clean_tokens), pair.positions[role]
                before, after = decode(tokens[max(0, at - 11) : at]), decode(tokens[at + 1 : at + 4])
                examples[str(code)].append(f"{before}[{decode([tokens[at]])}]{after}")
        return examples

    def _interchange(
        self, coded: dict[HeadAtRole, HeadCodebook], names: dict[HeadAtRole, list[Name]], varying: Iterable[Variable]
    ) -> list[VariableSet]:
        """Every variable by itself, at heads that help and at those that oppose; together those that move the metric by
        themselves on the discovery's pairs."""
        outcomes: list[VariableSet] = []
        together: list[NamedVariable] = []
        for variable, opposes in product(varying, (False, True)):
            telling = [
                slot
                for slot, of_slot in names.items()
                if of_slot and of_slot[0].variable == variable.name and slot in self.carries
                if (slot in self.opposing) == opposes
            ]
            if not telling:
                continue
            slots, fall = self._strongest(telling, coded, variable.name)
            judged = NamedVariable(variable, {slot: coded[slot] for slot in slots})
            outcome = set_variables(self.judge, [judged], self.fit_z, self.seed, controls=False)
            if outcome is not None:
                outcomes.append(outcome)
                together += [judged] * (fall >= TOGETHER * self.gap)
            else:
                self.notes.append(
                    f"{variable.name}: codes stand for fewer than two of its values, so none can be set to another."
                )
        if len(together) > 1:
            outcome = set_variables(self.judge, together, self.fit_z, self.seed, controls=False)
            outcomes += [] if outcome is None else [outcome]
        return outcomes

    def _strongest(
        self, telling: Sequence[HeadAtRole], coded: Mapping[HeadAtRole, HeadCodebook], variable: str
    ) -> tuple[list[HeadAtRole], float]:
        """All slots that tell a variable, or those at one role: whichever moves the metric most on the discovery's
        pairs, and by how much. What is told at an earlier role may be told again at a later one."""
        roles = dict.fromkeys(slot.role for slot in telling)
        parts = [list(telling), *([slot for slot in telling if slot.role == role] for role in roles)]
        z, falls = self.chooser.z, []
        for part in parts if len(roles) > 1 else parts[:1]:
            of_part = {slot: replace(coded[slot], judged=ids(coded[slot].book, z(slot))) for slot in part}
            chosen = NamedVariable(self.of_chosen[variable], of_part)
            outcome = set_variables(self.chooser, [chosen], self.fit_z, self.seed, controls=False)
            falls.append(-np.inf if outcome is None else outcome.metric_clean - outcome.by["set"].metric)
        best = int(np.argmax(falls))
        return parts[best], falls[best]


def _meaning(coded: HeadCodebook, name: Sequence[Name]) -> Int[np.ndarray, " code"]:
    values = name[0].values if name else {}
    kinds = list(dict.fromkeys(values.values()))
    codes = range(coded.book.config.n_codes)
    return np.array([kinds.index(values[c]) if c in values else len(kinds) + c for c in codes])


def _interchange(outcome: VariableSet) -> Interchange:
    answers = {name: value for name, value in answers_by_field(outcome).items() if not np.isnan(value)}
    answers |= {"n": outcome.n, "metric_clean": outcome.metric_clean}
    return Interchange(variable=outcome.variable, sites=list(map(str, outcome.slots)), **answers)
