"""What a program is: slots and their codes, transitions, interchange; JSON in and out."""

import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import Field, InstanceOf, NonNegativeInt

import interp
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.circuits.circuit import SiteName, Strict
from interp.models import Model
from interp.programs.codes import ENOUGH, MOST_COST, MOST_KEPT
from interp.programs.slots import HeadAtRole
from interp.prompts.pairs import PromptPairs, Value
from interp.stats import wilson

PASSED = 0.05
MOST_LINES, LEAST_FALL = 10, 0.05
"""Of the summary; a line whose fall is under this share of f, deleted and wrong, is left out."""


def _json_key(key: str, **options: Any) -> Any:
    return Field(validation_alias=key, serialization_alias=key, **options)


class Place(Strict):
    """Where a member acts: its effect by role with a 95 % interval, and what is left of its whole effect.

    Roles are looked at from the last to the first, until hardly anything is left.
    """

    site: SiteName
    roles: dict[str, tuple[float, float, float]]
    elsewhere: float


class SlotCodes(Strict):
    """What a member says at a role."""

    site: SiteName
    role: str
    # effect, low, high: fall of the metric with the corrupt prompt's output there, with its 95 % interval
    effect: float
    low: float
    high: float
    input: bool = False  # whether the program, when it runs alone, is written there
    codes: int  # how many there are; `bits` is the entropy of those in use
    bits: float
    # effect_kept, reconstruction_cost: shares of the effect, in JSON `carried` and `own_cost`, see `programs.codes`;
    # `None` without an effect
    effect_kept: float | None = _json_key("carried")
    reconstruction_cost: float | None = _json_key("own_cost")
    # effect_kept_low, effect_kept_high: 95 % interval of `effect_kept`, over pairs
    effect_kept_low: float | None = _json_key("carried_low", default=None)
    effect_kept_high: float | None = _json_key("carried_high", default=None)
    # of the effect by codes over prompts, 1 − Σ(by codes − effect)² / Σ(effect − mean)²: signed errors that cancel in
    # the share show here
    effect_r2: float | None = None
    # mean size of what a prompt loses by its own code, as a share of the effect
    absolute_cost: float | None = None
    # share that is kept when every prompt is moved by the same shift, mean corrupt less mean clean: what needs no code
    shift_kept: float | None = None
    usual: list[tuple[Value, int]] = []  # by value of the variable the code that most prompts with it have
    variable: str | None = None  # what the codes stand for; `None` where nothing stands out
    # ami, ami_null, q, accuracy, commonest: see `Name`
    ami: float | None = None
    ami_null: float | None = None
    q: float | None = None
    accuracy: float | None = None
    commonest: float | None = None
    values: dict[str, Value] = {}  # what each code stands for, as far as most of its prompts agree
    shares: dict[str, tuple[float, float]] = {}  # of each code among the held-out clean and corrupt prompts
    examples: dict[str, list[str]] = {}  # of each code, the words around the role

    @property
    def slot(self) -> HeadAtRole:
        return HeadAtRole.of(self.site, self.role)

    @property
    def enough(self) -> bool:
        """Whether its codes carry its effect at hardly any cost."""
        if self.effect_kept is None or self.reconstruction_cost is None:
            return False
        return ENOUGH <= self.effect_kept <= MOST_KEPT and abs(self.reconstruction_cost) <= MOST_COST


class Transition(Strict):
    """What one slot passes on to another; names are ``a17.h4 @ S2``.

    The sender's code becomes the one it has on the corrupt prompt. Codes that stand for the same value count as one.
    """

    sender: str = Field(alias="from")
    receiver: str = Field(alias="to")
    n: NonNegativeInt  # held-out prompts on which the sender then says another thing
    changes: float  # share of them on which the receiver says something else
    as_predicted: float  # share of these on which it says what it says on the corrupt prompt
    null: float  # `changes` when the sender's change is turned at random, its length kept
    # `as_predicted` when the receiver's other meanings are drawn at their frequency; `None` in runs of before
    predicted_null: float | None = None
    strength: float  # where the receiver says the same, how strongly, against the clean prompt

    @property
    def known(self) -> bool:
        """Whether the receiver changes twice as often as by chance, and more as predicted than by chance."""
        changed = round(self.n * self.changes)
        low, _ = wilson(round(changed * self.as_predicted), changed) if changed else (0.0, 0.0)
        return self.changes >= 2 * self.null and low > (self.predicted_null or 0.0)


class Interchange(Strict):
    """A variable set to another value in the slots that carry it, see :class:`~interp.programs.proof.VariableSet`.

    Attributes:
        sites: the slots, as ``a20.h0 @ END``.
        metric_clean … : means over ``n`` held-out prompts.
        flipped … : shares of them whose preferred answer differs from the unedited model's.
        off_target … : KL of the next token from the unedited model's, answers left out, in nats.
        …_heads: ``None`` where a slot is an MLP, or its layer has no other head.
        accuracy …, isolation: see :mod:`interp.programs.judge`; of ``n_accuracy`` prompts; ``_right``: where the
            unedited model is right on both.

    What ``interp program RUN --judge`` adds is ``None`` before.
    """

    variable: str
    sites: list[str]
    n: NonNegativeInt
    metric_clean: float
    metric_set: float
    metric_own: float
    metric_random: float | None = None
    metric_heads: float | None = None
    metric_codes: float | None = None
    metric_means: float | None = None
    flipped: float
    flipped_own: float
    flipped_random: float | None = None
    flipped_heads: float | None = None
    flipped_codes: float | None = None
    flipped_means: float | None = None
    off_target: float | None = None
    off_target_own: float | None = None
    off_target_random: float | None = None
    off_target_heads: float | None = None
    off_target_codes: float | None = None
    off_target_means: float | None = None
    n_accuracy: NonNegativeInt = 0
    accuracy: float | None = None
    accuracy_right: float | None = None
    accuracy_ceiling: float | None = None
    accuracy_whole: float | None = None
    accuracy_means: float | None = None
    accuracy_codes: float | None = None
    accuracy_rotation: float | None = None
    isolation: float | None = None


class Group(Strict):
    """A line of the program: slots of one role, look or variable, and sign."""

    name: str  # what its heads look like, if anything
    role: str
    variable: str | None  # what the slot of most effect says, if anything
    sign: int
    input: bool  # whether codes are written there when the program runs alone; else they recompute
    sites: list[str]
    effect: float
    bits: float  # of the slot that says most

    @property
    def says(self) -> str:
        return self.variable or "no variable"


def heads_at_role(group: Group) -> str:
    """``a8.h0, a11.h6, a14.h3, a15.h6 and 3 more @ S2``."""
    more = f" and {n} more" if (n := len(group.sites) - 4) > 0 else ""
    return f"{', '.join(group.sites[:4])}{more} @ {group.role}"


class Live(Strict):
    """Of the model with a program's codes written at all of its slots: the metric's mean, how often the preferred
    answer is that of the unedited model, and R² of the metric over prompts."""

    metric: float
    same_answer: float
    r2: float | None
    # r2_low, r2_high: 95 % interval over prompts
    r2_low: float | None = None
    r2_high: float | None = None
    r2_within: float | None = None  # R² among prompts that are equal in the variable of the fewest values
    # same_error, errors: of the prompts at which the unedited model prefers a wrong answer, how often that stays
    same_error: float | None = None
    errors: NonNegativeInt = 0


class Line(Strict):
    """By how much f falls when a group is deleted, or says what it says on another prompt, if it says a variable."""

    group: NonNegativeInt
    fall_deleted: float
    fall_wrong: float | None


class Chained(Strict):
    """The program alone, see :mod:`interp.programs.execute`: f with a 95 % interval over prompts."""

    share: float
    low: float
    high: float
    ceiling: float  # f with what the model writes at the same input slots
    same_answer: float  # how often the preferred answer is that of the unedited model
    # zero_bits, other_prompt: f with mean codes, and with the codes of another prompt
    zero_bits: float
    other_prompt: float
    lines: list[Line]


class Executed(Strict):
    """What a program does when it runs, on the prompts that judge."""

    live: Live
    chained: Chained
    nulls: dict[str, Live]


class Program(Strict):
    """What a circuit's members say, what stands for what, and what becomes of the answer when it is set."""

    slots: list[SlotCodes] = []  # in the order of the forward pass
    places: list[Place] = []
    transitions: list[Transition] = []
    interchange: list[Interchange] = []
    groups: list[Group] = []  # the slots that say a variable, as lines
    executed: Executed | None = None  # what comes of running it; `None` where no slot says a variable
    looks: dict[str, str] = {}  # what each member looks like, if anything
    # n_fitted, n_judged: pairs that codes were fitted to, and that everything told was measured on
    n_fitted: NonNegativeInt = 0
    n_judged: NonNegativeInt = 0
    notes: list[str] = []  # what cannot be told and why, a sentence each
    forwards: float = 0.0  # what it cost, in forward passes of one prompt
    # the codebook of each slot, by its name
    books: dict[str, InstanceOf[MetricCodebook]] = Field(default_factory=dict, exclude=True)

    def execute(self, model: Model, pairs: PromptPairs) -> Executed:
        """Run the program on prompts of one's own, see :mod:`interp.programs.execute`. ``pairs``: of the program's
        task; none of them should have been seen by its discovery. :class:`InputError`: no slot says a variable of these
        prompts."""
        return interp.execute_program(self, model, pairs)

    def said(self, slot: str) -> SlotCodes:
        return next(codes for codes in self.slots if str(codes.slot) == slot)

    def passed_on(self, slot: str, most: int = 3) -> list[Transition]:
        """What a slot passes on as predicted, most first: in a twentieth of the prompts, and more than by chance."""
        edges = [edge for edge in self.transitions if edge.sender == slot and edge.known]
        edges.sort(key=lambda edge: -edge.changes * edge.as_predicted)
        return [edge for edge in edges if edge.changes * edge.as_predicted >= PASSED][:most]

    def summary(self) -> str:
        """The program as a person reads it in a minute: a line a group, what setting it does, and what it accounts
        for."""
        if not self.groups:
            slots = f"No slot says a variable; {len(self.slots)} slots are read (interp program RUN)."
            return "\n".join([slots, *self.notes[:3]] if self.slots else self.notes[:3])
        head = "" if self.executed is None else "   f falls: deleted / wrong"
        lines = [f"  {'program':<16}{'heads @ role':<44}   {'say':<22}effect{head}"]
        shown = self.lines_that_count()
        for _ in shown[MOST_LINES:]:
            shown.remove(min(shown, key=lambda row: abs(row[1].fall_deleted if row[1] else row[0].effect)))
        for group, line in shown:
            falls = "" if line is None else f"   {line.fall_deleted:+z.2f}"
            falls += "" if line is None or line.fall_wrong is None else f" / {line.fall_wrong:+z.2f}"
            lines.append(
                f"  {group.name or 'head':<16}{heads_at_role(group):<44} = {group.says:<22}{group.effect:+6.2f}{falls}"
            )
        left = len(self.groups) - len(shown)
        if left:
            lines.append(f"  {left} more lines change little (interp program RUN)")
        for entry in self._by_fall()[:3]:
            lines.append(
                f"{entry.variable} set to another value: metric {entry.metric_clean:.2f} → {entry.metric_set:.2f}, "
                f"{entry.flipped:.0%} of answers change (own value {entry.flipped_own:.0%})"
            )
        return "\n".join(lines + self.accounts_for())

    def _by_fall(self) -> list[Interchange]:
        """What lowers the metric most when it is set first."""
        return sorted(self.interchange, key=lambda entry: entry.metric_set - entry.metric_clean)

    def lines_that_count(self) -> list[tuple[Group, Line | None]]:
        """Groups without which, or false, f differs by :data:`LEAST_FALL` of it; all where nothing was run.

        What opposes the answer raises f when it is deleted. When it is false, more f says nothing.
        """
        if self.executed is None:
            return [(group, None) for group in self.groups]
        alone = self.executed.chained
        falls = {line.group: line for line in alone.lines}
        return [
            (group, line)
            for number, group in enumerate(self.groups)
            if (line := falls.get(number)) is not None
            and max(abs(line.fall_deleted), line.fall_wrong or 0) >= LEAST_FALL * abs(alone.share)
        ]

    def accounts_for(self) -> list[str]:
        """How far the program accounts for the model, as sentences; none where nothing was run."""
        if self.executed is None:
            return []
        live, alone = self.executed.live, self.executed.chained
        r2 = "" if live.r2 is None else f", R² over prompts {live.r2:.2f}"
        if live.r2_low is not None:
            r2 += f" [{live.r2_low:.2f}, {live.r2_high:.2f}]"
        return [
            f"Written from the prompt's variables, {live.same_answer:.0%} of answers stay{r2}.",
            f"Alone, with every other head as on the corrupt prompt, it restores {alone.share:.0%} "
            f"[{alone.low:.0%}, {alone.high:.0%}] of the difference; the same heads with what they write "
            f"themselves {alone.ceiling:.0%}, another prompt's program {alone.other_prompt:.0%}.",
        ]

    def text(self) -> str:
        """The program as a person reads it: a paragraph a slot, then what setting the variables does."""
        lines = [line for codes in self.slots for line in self._paragraph(codes)]
        for x in self._by_fall():
            controls = {"own value": x.flipped_own, "turned at random": x.flipped_random}
            controls |= {"other heads": x.flipped_heads}
            lines.append(
                f"{x.variable} set to another value at {', '.join(x.sites)}: metric {x.metric_clean:.2f} → "
                f"{x.metric_set:.2f}, {x.flipped:.0%} of {x.n} answers change ({_shares(controls)})"
            )
            accuracies = {"codes": x.accuracy, "ceiling": x.accuracy_ceiling, "whole z": x.accuracy_whole}
            accuracies |= {"class means": x.accuracy_means, "random codes": x.accuracy_codes}
            accuracies |= {"rotation": x.accuracy_rotation}
            if x.accuracy is not None:
                lines.append(f"    the expected token comes out on top of {x.n_accuracy}: {_shares(accuracies)}")
            if x.isolation is not None:
                lines.append(f"    where it should stay the top token stays in {x.isolation:.0%}")
        lines += self.notes
        return "\n".join(textwrap.fill(line, 116, subsequent_indent="    ") for line in lines)

    def _paragraph(self, codes: SlotCodes) -> list[str]:
        variable = "something that no variable tells"
        if codes.variable is not None:
            values = list(dict.fromkeys("nothing" if v is None else str(v) for v in codes.values.values()))
            shown = ", ".join(values) if len(values) <= 4 else f"{', '.join(values[:3])}, …"
            variable = f"{codes.variable} {{{shown}}}"
        kept = codes.effect_kept
        share = "" if kept is None else f", {kept:.0%} of its effect {codes.effect:+.2f}"
        lines = [f"{codes.slot} says {variable}: {codes.codes} codes, {codes.bits:.1f} bits{share}"]
        for edge in self.passed_on(str(codes.slot)):
            lines.append(
                f"    → {edge.receiver} in {edge.changes:.0%} of prompts, {edge.as_predicted:.0%} of these as predicted"
            )
        return lines


def _shares(shares: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share is not None)
