"""What explains a difference between two prompts: its form in JSON, on disk, and in words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from interp.files import read_result, write_json, write_text

ENOUGH = 0.8, 1.2  # nodes are enough where they restore a share within these: more is no better explanation than less
CURVE = (1, 2, 5, 10, 20)  # numbers of nodes that are looked at alone
_NODES, _ARROWS, _WIDTH = 6, 3, 90  # that the text shows
RESULT, TEXT, PAGE, PICTURE = "why.json", "why.txt", "why.html", "why.svg"
FILES = RESULT, TEXT, PAGE, PICTURE  # in the folder of an explanation


@dataclass(frozen=True)
class WhyNode:
    """A head, or in the second ranking an MLP, at a token of A, counted with BOS.

    ``effect``: fall of A's metric in logits when B's value stands there, measured. ``looks_at``: token, position, share
    of attention · |value| in A. ``raises``, ``lowers``: tokens, by what it adds to their logits directly in A, ``None``
    where that is not known. An MLP looks at nothing. ``code``: a, b, name_a, name_b, ``None`` without codebooks.
    """

    site: str
    position: int
    token: str
    effect: float
    estimate: float
    looks_at: list[tuple[str, int, float]]
    raises: list[str] | None
    lowers: list[str] | None
    code: dict[str, Any] | None

    def __str__(self) -> str:
        return f"{self.site} @ {self.token!r} {self.position}"


@dataclass(frozen=True)
class Arrow:
    """From one node to a later one, by their places: falls of the metric when the later one alone reads what the
    earlier one wrote on B (direct), or all that lies between them as well."""

    sender: int
    receiver: int
    total: float
    direct: float

    @property
    def detour(self) -> str:
        """What other paths do to it, where they halve or double it."""
        share = self.total / (self.direct or 1e-9)
        return "" if 0.5 <= share <= 2 else f"other paths {'add to it' if share > 2 else 'take it away'}"


@dataclass(frozen=True)
class Alone:
    """So many nodes alone, all other heads at B: f, and the share of KL(A ‖ B) removed."""

    nodes: int
    restored: float
    kl_removed: float


@dataclass(frozen=True)
class WithMlps:
    """The second ranking: MLPs are nodes as heads are, held at B unless they stand where the prompts differ.

    Attributes as of :class:`Why`. ``nodes`` are those that were put in, in that order.
    """

    nodes: list[WhyNode]
    kept: int
    sparse: bool


@dataclass(frozen=True)
class Why:
    """Why a model says one thing after A and another after B.

    Attributes:
        model: the spec it was loaded by; ``None`` if it was not loaded by one.
        chat: whether both prompts stand as a user's message in the model's chat template.
        tokens, tokens_b: of both prompts, BOS included, as they stand in the text.
        answers: two tokens with their probabilities after A and B, and the share of KL that they do not cover.
        difference: logit of the first answer less that of the second, after A and after B.
        nodes: first those that were put into the frozen context, in that order; then others of large effect.
        kept: how many make the explanation: the fewest with f in :data:`ENOUGH`, else all that were put in.
        arrows: among nodes that are kept or of large effect.
        alone: the first nodes, at :data:`CURVE`, at ``kept``, and all that were put in.
        controls: the same for nodes in attribution's order, random ones (mean of draws), and all heads at END.
        needed: share of the difference that is lost when B's values stand at the kept nodes, all else live.
        sparse: whether at most twenty nodes have f in :data:`ENOUGH`.
        left: share of the difference that no head makes: with every head at B it is still there.
        alone_with_mlps, with_mlps: the same curve, and nodes, with MLPs as nodes; ``None`` where none can be one.
        notes: what a reader must know, one sentence each.
        seconds: by stage.
        n_heads: of the model; 0 where it was not noted.
    """

    model: str | None
    chat: bool
    a: str
    b: str
    tokens: list[str]
    tokens_b: list[str]
    answers: dict[str, Any]
    difference: dict[str, float]
    nodes: list[WhyNode]
    kept: int
    arrows: list[Arrow]
    alone: list[Alone]
    alone_with_mlps: list[Alone] | None
    with_mlps: WithMlps | None
    controls: dict[str, list[Alone]]
    needed: float
    sparse: bool
    left: float
    notes: list[str]
    seconds: dict[str, float]
    n_heads: int = 0

    @property
    def alone_kept(self) -> Alone:
        """What the kept nodes do alone."""
        return next((row for row in self.alone if row.nodes == self.kept), Alone(0, 0.0, 0.0))

    def as_json(self) -> dict[str, Any]:
        whole = asdict(self)
        for arrow in whole["arrows"]:
            arrow |= {"from": arrow.pop("sender"), "to": arrow.pop("receiver")}
        return whole

    @classmethod
    def of_json(cls, stored: dict[str, Any]) -> "Why":
        """Of :meth:`as_json`; pydantic's ``ValidationError`` says what is missing or wrong."""
        names = {"from": "sender", "to": "receiver"}
        arrows = [{names.get(key, key): value for key, value in arrow.items()} for arrow in stored["arrows"]]
        known = {key: value for key, value in stored.items() if key in cls.__annotations__}
        return TypeAdapter(cls).validate_python(known | {"arrows": arrows})

    def save(self, folder: Path | str, request: Mapping[str, Any] | None = None) -> Path:
        """Write ``why.json`` and ``why.txt`` into a folder."""
        folder = Path(folder)
        write_text(folder / TEXT, self.text() + "\n")
        write_json(folder / RESULT, {"request": request, **self.as_json()})
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "Why":
        """Read the folder again. :class:`InputError`: it holds no explanation, or one that cannot be read."""
        return read_result(Path(folder) / RESULT, "explanation", "interp why … --out", cls.of_json)

    def text(self) -> str:
        """At most 25 lines; what a user typed is escaped."""
        a, b, kept, alone = self.answers["answer"], self.answers["instead"], self.kept, self.alone_kept
        enough = "are enough" if self.sparse else "are not enough: this difference is not sparse"
        lines = [
            f"A {self.a!r:.{_WIDTH}} → {a['token']!r} {a['a']:z.0%}, {b['token']!r} {b['a']:z.0%}",
            f"B {self.b!r:.{_WIDTH}} → {b['token']!r} {b['b']:z.0%}, {a['token']!r} {a['b']:z.0%}",
            f"{a['token']!r} less {b['token']!r}: {self.difference['a']:+.2f} logits after A, "
            f"{self.difference['b']:+.2f} after B; {self.answers['uncovered']:z.0%} of KL is about other tokens",
            *(f"note: {note}" for note in self.notes),
            f"{kept} heads at tokens {enough}. Alone, with every other head as after B, they restore "
            f"{alone.restored:z.0%} of the difference and remove {alone.kl_removed:z.0%} of KL",
            f"taken out of A they lose {self.needed:z.0%} of it; {self.left:z.0%} is made by no head",
            "",
            *map(_line, self.nodes[: min(kept, _NODES)]),
        ]
        shown = min(kept, _NODES)
        between = [arrow for arrow in self.arrows if max(arrow.sender, arrow.receiver) < shown]
        arrows = sorted(between, key=lambda arrow: -abs(arrow.direct))[:_ARROWS]
        for arrow in arrows:
            ends = f"{self.nodes[arrow.sender]} → {self.nodes[arrow.receiver]}"
            detour = f"; {arrow.detour}" if arrow.detour else ""
            lines.append(f"  {ends}: direct {arrow.direct:+.2f}, in all {arrow.total:+.2f}{detour}")
        lines += [
            f"  these are {shown} of {len(self.nodes)} nodes and {len(arrows)} of {len(self.arrows)} arrows; "
            "--out FOLDER draws them, --json FILE lists all",
            "",
            "restored by      " + "".join(f"{n:>6}" for n in CURVE),
        ]
        rows = {"these nodes": [row for row in self.alone if row.nodes in CURVE], **self.controls}
        for name, row in rows.items():
            lines.append(f"  {name:<15}" + "".join(f"{x.restored:>z6.0%}" for x in row))
        return "\n".join(lines)


def _line(node: WhyNode) -> str:
    looks = ", ".join(f"{token!r} {share:z.0%}" for token, _, share in node.looks_at[:2])
    line = f"  {node!s:<22} {node.effect:+.2f} looks at {looks}"
    for name, words in (("raises", node.raises), ("lowers", node.lowers)):
        line += f"; {name} {', '.join(map(repr, words[:2]))}" if words else ""
    return line
