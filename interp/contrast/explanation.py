"""What explains a difference between two prompts: its form in JSON, and in words."""

from dataclasses import asdict, dataclass, field
from typing import Any

MOST_NODES, MOST_ARROWS = 7, 4
"""That the text shows."""
ENOUGH = 0.8, 1.2
"""Nodes are enough where they restore a share within these: more is no better explanation than less."""
CURVE = (1, 2, 5, 10, 20)
"""Numbers of nodes that are looked at alone."""
_WIDTH = 88


@dataclass(frozen=True)
class NodeCode:
    """The codes of what a node writes in A and in B, and their names, empty where they have none."""

    a: int
    b: int
    name_a: str
    name_b: str


@dataclass(frozen=True)
class WhyNode:
    """A head at a token.

    Attributes:
        position: in A, counted with BOS.
        effect: fall of A's metric in logits when B's value stands there; measured.
        estimate: of it, from gradients.
        looks_at: token, position and share of attention · |value| in A, the largest first.
        raises, lowers: tokens, by what the head adds to their logits directly in A; ``None`` where that is not known.
        code: ``None`` without codebooks of the model.
    """

    site: str
    position: int
    token: str
    effect: float
    estimate: float
    looks_at: list[tuple[str, int, float]]
    raises: list[str] | None
    lowers: list[str] | None
    code: NodeCode | None

    def __str__(self) -> str:
        return f"{self.site} @ {self.token!r} {self.position}"


@dataclass(frozen=True)
class Arrow:
    """From one node to a later one, by their places among the nodes.

    Attributes:
        direct: fall of the metric when the later node alone reads B's value of the earlier one.
        total: the same when all that lies between them reads it, too.
    """

    sender: int
    receiver: int
    total: float
    direct: float


@dataclass(frozen=True)
class Alone:
    """The first nodes alone: f, and the share of KL(A ‖ B) removed, with all other heads at B."""

    nodes: int
    restored: float
    kl_removed: float


@dataclass(frozen=True)
class Why:
    """Why a model says one thing after A and another after B.

    Attributes:
        answers: two tokens with their probabilities after A and B, and the share of KL that they do not cover.
        difference: logit of the first answer less that of the second, after A and after B.
        nodes: first those that were put into the frozen context, in that order; then others of large effect.
        kept: how many of them make the explanation: the fewest with f in :data:`ENOUGH`, else all that were put in.
        arrows: among the kept ones; ``None`` where the model's attention is not known.
        alone: at :data:`CURVE` nodes, and at ``kept``.
        controls: the same for as many nodes in attribution's order, for random ones, and for all heads at END.
        needed: share of the difference that is lost when B's values stand at the kept nodes, all else live.
        sparse: whether at most twenty nodes have f in :data:`ENOUGH`.
        left: share of the difference that no head makes: what is left with every head at B.
        seconds: by stage.
        notes: what a reader must know, one sentence each.
    """

    a: str
    b: str
    answers: dict[str, Any]
    difference: dict[str, float]
    nodes: list[WhyNode]
    kept: int
    arrows: list[Arrow] | None
    alone: list[Alone]
    controls: dict[str, list[Alone]]
    needed: float
    sparse: bool
    left: float
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        names = ("a", "b", "answers", "difference", "nodes", "arrows", "alone", "needed", "sparse", "seconds")
        whole = {name: value for name, value in asdict(self).items() if name in names}
        if self.arrows is not None:
            whole["arrows"] = [
                {"from": x.sender, "to": x.receiver, "total": x.total, "direct": x.direct}
                for x in self.arrows
            ]
        return whole | {"alone_with_mlps": None}

    def text(self) -> str:
        """The explanation in at most 25 lines; what a user typed is escaped."""
        a, b = (self.answers[name] for name in ("answer", "instead"))
        enough = self.alone_with(self.kept)
        lines = [
            f"A {self.a!r:.{_WIDTH}} → {a['token']!r} {a['a']:.0%}, {b['token']!r} {b['a']:.0%}",
            f"B {self.b!r:.{_WIDTH}} → {b['token']!r} {b['b']:.0%}, {a['token']!r} {a['b']:.0%}",
            f"{a['token']!r} less {b['token']!r}: {self.difference['a']:+.2f} logits after A, {self.difference['b']:+.2f} "
            f"after B. {self.answers['uncovered']:.0%} of KL is about other tokens",
        ]
        if self.notes:
            lines.append(f"note: {'; '.join(self.notes)}")
        alone = f"with every other head as after B they restore {enough.restored:.0%} of the difference"
        alone += f" and remove {enough.kl_removed:.0%} of KL"
        if self.sparse:
            lines.append(f"{self.kept} heads at tokens are enough: {alone}")
        else:
            lines.append(f"this difference is not sparse: of {self.kept} heads at tokens, {alone}")
        lines.append(
            f"taken out of A they lose {self.needed:.0%} of it; no head makes {self.left:.0%} of it"
        )
        lines += ["", *map(self._line, self.nodes[: min(self.kept, MOST_NODES)])]
        if self.kept > MOST_NODES:
            lines.append(f"  and {self.kept - MOST_NODES} more (--json has all)")
        if self.arrows is None:
            lines.append("arrows: not known for this model's attention")
        for arrow in sorted(self.arrows or [], key=lambda x: -abs(x.direct))[:MOST_ARROWS]:
            ends = f"{self.nodes[arrow.sender]} → {self.nodes[arrow.receiver]}"
            lines.append(f"  {ends}: direct {arrow.direct:+.2f}, in all {arrow.total:+.2f}{_odd(arrow)}")
        if len(self.arrows or []) > MOST_ARROWS:
            lines[-1] += f", and {len(self.arrows or []) - MOST_ARROWS} more arrows"
        rows = {"these nodes": [row for row in self.alone if row.nodes in CURVE], **self.controls}
        lines += ["", "restored by     " + "".join(f"{n:>7}" for n in CURVE)]
        for name, row in rows.items():
            lines.append(f"  {name:<14}" + "".join(f"{x.restored:>7.0%}" for x in row))
        return "\n".join(lines)

    def alone_with(self, nodes: int) -> Alone:
        return next(row for row in self.alone if row.nodes == nodes)

    def _line(self, node: WhyNode) -> str:
        looks = ", ".join(f"{token!r} {share:.0%}" for token, _, share in node.looks_at[:2])
        writes = ""
        if node.raises is not None and node.lowers is not None:
            writes = f"; raises {', '.join(map(repr, node.raises[:3]))}, lowers {', '.join(map(repr, node.lowers[:3]))}"
        return f"  {node!s:<22} {node.effect:+.2f} looks at {looks}{writes}"


def _odd(arrow: Arrow) -> str:
    """Said where total and direct disagree."""
    opposite = arrow.total * arrow.direct < 0
    return " (opposite)" if opposite else " (less)" if abs(arrow.total) < abs(arrow.direct) / 2 else ""
