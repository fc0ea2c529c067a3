"""What a program is: slots and their codes, transitions, interchange; JSON in and out."""

import textwrap
from typing import Any

from pydantic import Field, InstanceOf, NonNegativeInt

from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.circuits.circuit import SiteName, Strict
from interp.programs.codes import ENOUGH, MOST_COST
from interp.programs.slots import HeadAtRole
from interp.prompts.pairs import Value

PASSED = 0.05


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
    """What a member says at a role.

    Attributes:
        effect, low, high: fall of the metric with the corrupt prompt's output there, with its 95 % interval.
        codes: how many there are; ``bits`` is the entropy of those in use.
        effect_kept, reconstruction_cost: shares of the effect, in JSON ``carried`` and ``own_cost``, see
            :mod:`interp.programs.codes`; ``None`` without an effect.
        effect_kept_low, effect_kept_high: 95 % interval of ``effect_kept``, over pairs.
        variable: what the codes stand for; ``None`` where nothing stands out.
        ami, ami_null, q, accuracy, commonest: see :class:`~interp.programs.codes.Name`.
        values: what each code stands for, as far as most of its prompts agree.
        shares: of each code among the held-out clean and corrupt prompts.
        examples: of each code, the words around the role.
    """

    site: SiteName
    role: str
    effect: float
    low: float
    high: float
    codes: int
    bits: float
    effect_kept: float | None = _json_key("carried")
    reconstruction_cost: float | None = _json_key("own_cost")
    effect_kept_low: float | None = Field(
        default=None, validation_alias="carried_low", serialization_alias="carried_low"
    )
    effect_kept_high: float | None = Field(
        default=None, validation_alias="carried_high", serialization_alias="carried_high"
    )
    variable: str | None = None
    ami: float | None = None
    ami_null: float | None = None
    q: float | None = None
    accuracy: float | None = None
    commonest: float | None = None
    values: dict[str, Value] = {}
    shares: dict[str, tuple[float, float]] = {}
    examples: dict[str, list[str]] = {}

    @property
    def slot(self) -> HeadAtRole:
        return HeadAtRole.of(self.site, self.role)

    @property
    def enough(self) -> bool:
        """Whether its codes carry its effect at hardly any cost."""
        if self.effect_kept is None or self.reconstruction_cost is None:
            return False
        return self.effect_kept >= ENOUGH and self.reconstruction_cost <= MOST_COST


class Transition(Strict):
    """What one slot passes on to another; names are ``a17.h4 @ S2``.

    The sender's code becomes the one it has on the corrupt prompt. Codes that stand for the same value count as one.

    Attributes:
        n: held-out prompts on which the sender then says another thing.
        changes: share of them on which the receiver says something else.
        as_predicted: share of these on which it says what it says on the corrupt prompt.
        null: ``changes`` when the sender's change is turned at random, its length kept.
        strength: where the receiver says the same, how strongly, against the clean prompt.
    """

    sender: str = Field(alias="from")
    receiver: str = Field(alias="to")
    n: NonNegativeInt
    changes: float
    as_predicted: float
    null: float
    strength: float


class Interchange(Strict):
    """A variable set to another value in the slots that carry it, see :class:`~interp.programs.proof.VariableSet`.

    Attributes:
        sites: the slots, as ``a20.h0 @ END``.
        metric_clean … : means over ``n`` held-out prompts.
        flipped … : shares of them whose preferred answer differs from the unedited model's.
        off_target … : KL of the next token from the unedited model's, answers left out, in nats.
        …_heads: ``None`` where a slot is an MLP, or its layer has no other head.
    """

    variable: str
    sites: list[str]
    n: NonNegativeInt
    metric_clean: float
    metric_set: float
    metric_own: float
    metric_random: float
    metric_heads: float | None
    metric_codes: float
    metric_means: float
    flipped: float
    flipped_own: float
    flipped_random: float
    flipped_heads: float | None
    flipped_codes: float
    flipped_means: float
    off_target: float
    off_target_own: float
    off_target_random: float
    off_target_heads: float | None
    off_target_codes: float
    off_target_means: float


class Program(Strict):
    """What a circuit's members say, what stands for what, and what becomes of the answer when it is set.

    Attributes:
        slots: in the order of the forward pass.
        n_fitted, n_judged: pairs that codes were fitted to, and that everything told was measured on.
        notes: what cannot be told and why, a sentence each.
        forwards: what it cost, in forward passes of one prompt.
        books: the codebook of each slot, by its name.
    """

    slots: list[SlotCodes] = []
    places: list[Place] = []
    transitions: list[Transition] = []
    interchange: list[Interchange] = []
    n_fitted: NonNegativeInt = 0
    n_judged: NonNegativeInt = 0
    notes: list[str] = []
    forwards: float = 0.0
    books: dict[str, InstanceOf[MetricCodebook]] = Field(default_factory=dict, exclude=True)

    def said(self, slot: str) -> SlotCodes:
        return next(said for said in self.slots if str(said.slot) == slot)

    def passed_on(self, slot: str, most: int = 3) -> list[Transition]:
        """What a slot passes on as predicted, most first: in a twentieth of the prompts, and more than by chance."""
        told = [edge for edge in self.transitions if edge.sender == slot and edge.changes >= 2 * edge.null]
        told.sort(key=lambda edge: -edge.changes * edge.as_predicted)
        return [edge for edge in told if edge.changes * edge.as_predicted >= PASSED][:most]

    def text(self) -> str:
        """The program as a person reads it: a paragraph a slot, then what setting the variables does."""
        lines = [line for said in self.slots for line in self._paragraph(said)]
        for one in sorted(self.interchange, key=lambda one: one.metric_set - one.metric_clean):
            heads = "" if one.flipped_heads is None else f", other heads {one.flipped_heads:.0%}"
            lines.append(
                f"{one.variable} set to another value at {', '.join(one.sites)}: metric {one.metric_clean:.2f} → "
                f"{one.metric_set:.2f}, {one.flipped:.0%} of {one.n} answers change (own value {one.flipped_own:.0%}, "
                f"turned at random {one.flipped_random:.0%}{heads})"
            )
        lines += self.notes
        return "\n".join(
            filled for line in lines for filled in textwrap.wrap(line, 116, subsequent_indent="    ")
        )

    def _paragraph(self, said: SlotCodes) -> list[str]:
        what = "something that no variable tells"
        if said.variable is not None:
            values = list(dict.fromkeys("nothing" if v is None else str(v) for v in said.values.values()))
            shown = ", ".join(values) if len(values) <= 4 else f"{', '.join(values[:3])}, …"
            what = f"{said.variable} {{{shown}}}"
        share = (
            "" if said.effect_kept is None else f", {said.effect_kept:.0%} of its effect {said.effect:+.2f}"
        )
        lines = [f"{said.slot} says {what}: {said.codes} codes, {said.bits:.1f} bits{share}"]
        for edge in self.passed_on(str(said.slot)):
            lines.append(
                f"    → {edge.receiver} in {edge.changes:.0%} of prompts, {edge.as_predicted:.0%} of these as predicted"
            )
        return lines
