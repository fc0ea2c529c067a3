"""A program executed: from a prompt's variables alone its codes are written, and the model says what it then says.

*Live*: at every slot that says a variable stands the code of the prompt's true value; all else of the model runs. How
near comes the metric, prompt by prompt? R² = 1 − Σ(m̂ − m)² / Σ(m − m̄)².

*Alone, chained*: every head at every token is held at the corrupt prompt, MLPs live. Codes are written at the slots of
the input stage only; slots of later stages recompute. f = (m − nothing live) / (clean − nothing live). Had all slots
been written, a program of which nothing but the last heads is true would do as well. A line is true as far as f falls
when it is deleted, or says another value.

Nulls: each slot's mean code (0 bits), and the program of another prompt.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.stream import Progress
from interp.errors import InputError
from interp.interventions.frozen import LiveAt, in_frozen_context
from interp.interventions.patch import Patch
from interp.models import Model, parse_site
from interp.programs.codes import Variable, variables, vectors_of
from interp.programs.schema import Chained, Executed, Group, Line, Live, Program, SlotCodes
from interp.programs.slots import Edit, HeadAtRole, SlotRunner
from interp.prompts.pairs import PromptPairs
from interp.stats import mean_interval, r2_of

STEPS = 2
CHAINED_PAIRS, LINE_PAIRS = 40, 16  # of the first prompts: for the program alone, and for its lines deleted and wrong


def groups_of(program: Program) -> list[Group]:
    """Slots of one role, look or variable, and sign as a line, in the order of the forward pass."""

    def key(coded: SlotCodes) -> tuple[bool, str, str, bool]:
        look = program.looks.get(str(coded.site), "")
        return not coded.input, coded.role, look or coded.variable or "", coded.effect < 0

    lines = []
    for (later, role, _, negative), slots in groupby(sorted(program.slots, key=key), key):
        members = sorted(slots, key=lambda coded: -abs(coded.effect))
        lines.append(
            Group(
                name=program.looks.get(str(members[0].site), ""),
                role=role,
                variable=next((coded.variable for coded in members if coded.variable is not None), None),
                sign=-1 if negative else 1,
                input=not later,
                sites=[str(coded.site) for coded in members],
                effect=sum(coded.effect for coded in members),
                bits=max(coded.bits for coded in members),
            )
        )
    return sorted(lines, key=lambda line: parse_site(line.sites[0]).layer)


class Execution:
    """A program on some pairs. ``runner``: of the pairs; no prompt of them may have fitted the program."""

    def __init__(self, program: Program, runner: SlotRunner, seed: int = 0) -> None:
        self.runner, self.seed = runner, seed
        self.groups = groups_of(program)
        varying = {variable.name: variable for variable in variables(runner.pairs, runner.model.tokenizer)}
        self.group_of = {HeadAtRole.of(site, group.role): group for group in self.groups for site in group.sites}
        slots = {coded.slot: coded for coded in program.slots}
        self.slots = [slots[slot] for slot in self.group_of]
        self.named = [coded for coded in self.slots if coded.variable in varying and coded.usual]
        self.variables = [varying[name] for name in {coded.variable or "": None for coded in self.named}]
        n = len(runner.pairs)
        self.other = np.roll(np.arange(n), 1 + seed % max(1, n - 1))
        self.codes = {str(coded.slot): _codes(coded, varying[coded.variable or ""]) for coded in self.named}
        self.books = program.books
        self.mean = {str(coded.slot): self._mean(coded) for coded in self.slots}

    def _mean(self, coded: SlotCodes) -> Float[Tensor, " d"]:
        shares = np.array([coded.shares[str(code)] for code in range(coded.codes)]).mean(1)
        return torch.from_numpy(shares).float() @ vectors_of(self.books[str(coded.slot)], np.arange(coded.codes))

    def values(self, coded: SlotCodes, content: str, pairs: Int[np.ndarray, " row"]) -> Float[Tensor, "row d"]:
        """What is written at a slot: ``program``, the code of the true value; ``other``, of another prompt's; ``mean``;
        ``whole``, what the model writes. Where no code stands for a value, or no variable is said, it is the mean."""
        if content == "whole":
            return self.runner.z(coded.slot)[0, torch.from_numpy(pairs)]
        name, codes = str(coded.slot), np.full(len(pairs), -1)
        if content != "mean" and name in self.codes:
            codes = self.codes[name][self.other[pairs] if content == "other" else pairs]
        known = torch.from_numpy(codes >= 0)[:, None]
        return torch.where(known, vectors_of(self.books[name], np.maximum(codes, 0)), self.mean[name])

    def live(self) -> tuple[Live, dict[str, Live]]:
        """At all slots, all else live: the program, and its nulls."""
        n, arms = len(self.runner.pairs), ("program", "mean", "other")
        pairs = np.arange(n)
        edits = [Edit(coded.slot, torch.cat([self.values(coded, arm, pairs) for arm in arms])) for coded in self.named]
        outcome = self.runner.run(np.tile(pairs, len(arms)), edits)
        same = outcome.preferred.reshape(-1, n) == self.runner.preferred
        program, mean, other = map(self._compared, outcome.metric.reshape(-1, n), same)
        return program, {"zero_bits": mean, "other_prompt": other}

    def _compared(self, predicted: Float[np.ndarray, " pair"], same: Bool[np.ndarray, " pair"]) -> Live:
        """A metric, and whether the preferred answer is the same, beside the unedited model's."""
        metric, fewest = self.runner.metric[0], min(self.variables, key=lambda variable: len(variable.values))
        stratum = fewest.ids[0]
        mean = (np.bincount(stratum, metric) / np.maximum(np.bincount(stratum), 1))[stratum]
        within = r2_of(predicted - mean, metric - mean, self.seed)
        r2, low, high = r2_of(predicted, metric, self.seed) or (None,) * 3
        pairs = zip(self.runner.preferred.tolist(), self.runner.pairs, strict=True)
        wrong = np.array([preferred not in pair.answers for preferred, pair in pairs])
        return Live(
            metric=float(predicted.mean()),
            same_answer=float(same.mean()),
            r2=r2,
            r2_low=low,
            r2_high=high,
            r2_within=None if within is None else within[0],
            same_error=float(same[wrong].mean()) if wrong.any() else None,
            errors=int(wrong.sum()),
        )

    def chained(self) -> Chained:
        """Codes at the input stage alone, later slots recomputed, all else corrupt."""
        pairs = np.arange(min(CHAINED_PAIRS, len(self.runner.pairs)))
        written = ("program", "whole", "mean", "other")
        metric, preferred = self._run([[], *map(self._arm, written)], pairs)
        clean, nothing = self.runner.metric[0, pairs].mean(), metric[0].mean()
        f = (metric[1:].mean(1) - nothing) / (clean - nothing)
        share = dict(zip(written, f.tolist(), strict=True))
        falls = (metric[1] - metric[0]) / (clean - nothing)
        low, high = mean_interval(falls[:, None], self.seed)
        return Chained(
            share=share["program"],
            low=float(low[0]),
            high=float(high[0]),
            ceiling=share["whole"],
            same_answer=float((preferred[1] == self.runner.preferred[pairs]).mean()),
            zero_bits=share["mean"],
            other_prompt=share["other"],
            lines=self._lines(),
        )

    def _lines(self) -> list[Line]:
        pairs = np.arange(min(LINE_PAIRS, len(self.runner.pairs)))
        arms = [[], self._arm("program")]
        for group in self.groups:
            arms += [self._arm("program", deleted=group), self._arm("program", wrong=group)]
        metric, _ = self._run(arms, pairs)
        f = (metric.mean(1) - metric[0].mean()) / (self.runner.metric[0, pairs].mean() - metric[0].mean())
        falls = (f[1] - f[2:]).reshape(-1, 2).tolist()
        return [
            Line(group=i, fall_deleted=deleted, fall_wrong=None if group.variable is None else wrong)
            for i, (group, (deleted, wrong)) in enumerate(zip(self.groups, falls, strict=True))
        ]

    def _arm(
        self, content: str, *, deleted: Group | None = None, wrong: Group | None = None
    ) -> list[tuple[SlotCodes, str | None]]:
        """Slots that are not held, and what is written there; ``None``: they recompute."""
        arm: list[tuple[SlotCodes, str | None]] = []
        for coded in self.slots:
            group = self.group_of[coded.slot]
            is_wrong = group is wrong and str(coded.slot) in self.codes
            if group is not deleted:
                arm.append((coded, "other" if is_wrong else content if group.input else None))
        return arm

    def _run(
        self, arms: Sequence[Sequence[tuple[SlotCodes, str | None]]], pairs: Int[np.ndarray, " pair"]
    ) -> tuple[Float[np.ndarray, "arm pair"], Int[np.ndarray, "arm pair"]]:
        rows, n = np.tile(pairs, len(arms)), len(pairs)
        live, patches = [], []
        for coded in self.slots:
            positions = coded.slot.positions([self.runner.pairs[pair] for pair in rows])
            contents = [next((content for slot, content in arm if slot is coded), "held") for arm in arms]
            recompute = np.repeat([content is None for content in contents], n)
            if recompute.any() and coded.slot.site.kind == "attn":
                live.append(LiveAt(coded.slot.site, positions, recompute))
            written = np.repeat([content not in (None, "held") for content in contents], n)
            if written.any():
                held = torch.zeros_like(self.values(coded, "mean", pairs))
                values = [
                    held if content in (None, "held") else self.values(coded, content, pairs) for content in contents
                ]
                patches.append(Patch(coded.slot.site, torch.cat(values), positions, written))
        metric, preferred = in_frozen_context(self.runner.clean, rows, live, patches)
        return metric.reshape(len(arms), n), preferred.reshape(len(arms), n)


def _codes(coded: SlotCodes, variable: Variable) -> Int[np.ndarray, " pair"]:
    """The usual code of each clean prompt's value; −1 where none is known."""
    usual = {_same(value): code for value, code in coded.usual}
    return np.array([usual.get(_same(variable.values[value]), -1) for value in variable.ids[0]])


def _same(value: object) -> tuple[str, object]:
    """1 and True are different values, and the same key."""
    return type(value).__name__, value


def execute(
    program: Program, runner: SlotRunner, seed: int = 0, progress: Progress = lambda _done: None
) -> tuple[list[Group], Executed | None]:
    """A program on pairs that did not fit it: its lines, and what comes of it; ``None`` where no slot says anything.
    ``progress``: is told of :data:`STEPS` steps."""
    execution = Execution(program, runner, seed)
    if not execution.named:
        return [], None
    live, nulls = execution.live()
    progress(1)
    chained = execution.chained()
    progress(1)
    return execution.groups, Executed(live=live, chained=chained, nulls=nulls)


def execute_program(program: Program, model: Model, pairs: PromptPairs) -> Executed:
    """:meth:`~interp.programs.schema.Program.execute`."""
    if program.groups and not program.books:
        raise InputError("this program has no codebooks: load its run again with Run.load")
    if program.groups and not any(coded.input for coded in program.slots):
        raise InputError(
            "this program names no slot at which it is written, as those of before did not: run the discovery again"
        )
    mlps = any(coded.slot.site.kind == "mlp" for coded in program.slots)
    _, executed = execute(program, SlotRunner.of(model, pairs, mlps=mlps))
    if executed is None:
        raise InputError("no slot of this program says a variable of these prompts: there is nothing to execute")
    return executed
