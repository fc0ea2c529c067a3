"""Heads, MLPs and edges of a run as the report's grid, table and graph need them."""

from dataclasses import dataclass

from markupsafe import Markup

from interp.circuits.circuit import Component, Edge
from interp.circuits.roles import ROLE_BAR
from interp.report import wording
from interp.report.edge_graph import Node, edge_graph
from interp.report.figures import Cell, head_grid, opacity
from interp.runs.run import Run

FAINT = 1e-3
"""Share of the largest score from which on an edge is told."""


@dataclass(frozen=True)
class Scale:
    """The units of a run: the clean–corrupt gap, and the decimals of effects and of scores."""

    gap: float
    places: int
    score_places: int
    largest_effect: float
    largest_score: float
    """Largest absolute score of a head."""
    has_sign: bool
    """Whether the method's scores say if a head helps or hurts."""

    @classmethod
    def of(cls, run: Run) -> "Scale":
        gap = run.metric.gap
        counted = all(head.score.is_integer() for head in run.heads)
        largest_score = max(abs(head.score) for head in run.heads)
        return cls(
            gap=gap,
            places=max(2, wording.places(abs(gap))),
            score_places=0 if counted else max(2, wording.places(largest_score)),
            largest_effect=max((abs(part.effect) for part in run.checked), default=0.0),
            largest_score=largest_score,
            has_sign=run.settings.signed,
        )

    def score(self, score: float) -> str:
        """A score as text, with a sign where the method gives one."""
        return (wording.signed if self.has_sign else wording.number)(score, self.score_places)

    def share(self, effect: float | None) -> float | None:
        """An effect as a share of the gap."""
        return None if effect is None or self.gap == 0 else effect / self.gap


def counts_code_pairs(run: Run) -> bool:
    """Whether edges are numbers of pairs of codes, as of ``overlap``: they tell neither a sign nor a direction."""
    return run.method == "overlap"


def roles_named(roles: dict[str, float]) -> list[tuple[str, float]]:
    """The roles that a head is called by, best first."""
    return sorted(((r, s) for r, s in roles.items() if s >= ROLE_BAR), key=lambda pair: -pair[1])


def effect_text(part: Component, scale: Scale) -> str:
    """Effect with interval, as one line of text."""
    if part.effect is None:
        return "effect not checked"
    effect, low, high = (wording.signed(value, scale.places) for value in (part.effect, part.low, part.high))
    return f"effect {effect} [{low}, {high}], {wording.percent(scale.share(part.effect))} of the gap"


def grid_figures(run: Run, scale: Scale) -> list[dict]:
    """The score of every component and the exact effect of the checked ones; one grid where they are the same."""
    score = {
        "name": "score",
        "title": "Method’s score of every head",
        "figure": _grid(run, scale, "score", scale.largest_score),
        "legend": _legend(scale.largest_score, max(1, scale.score_places), scale.has_sign),
    }
    effect = {
        "name": "effect",
        "title": "Exact effect of the checked heads, numbers in % of the gap",
        "figure": _grid(run, scale, "effect", scale.largest_effect),
        "legend": _legend(scale.largest_effect, scale.places, True),
    }
    return [effect] if run.method == "patching" else [score, effect]


def _grid(run: Run, scale: Scale, key: str, largest: float) -> Markup:
    rows: dict[str, list[Cell]] = {}
    for head in run.heads:
        rows.setdefault(f"h{head.head}", []).append(_cell(head, scale, key))
    if any(getattr(mlp, key) is not None for mlp in run.mlps):
        rows["MLP"] = [_cell(mlp, scale, key) for mlp in run.mlps]
    what = "Score" if key == "score" else "Exact effect"
    label = f"{what} of every head by layer; the circuit’s members are outlined"
    return head_grid(rows, largest, label)


def _cell(part: Component, scale: Scale, key: str) -> Cell:
    roles = ", ".join(f"{role} {value:.2f}" for role, value in roles_named(part.roles))
    title = f"{part.site}: score {scale.score(part.score)}, {effect_text(part, scale)}"
    state = "member" if part.in_circuit else ("checked" if part.effect is not None else "")
    share = scale.share(part.effect)
    return Cell(
        value=getattr(part, key),
        title=title + (f"; looks like {roles}" if roles else ""),
        state=state,
        text=wording.number(100 * share, 0) if key == "effect" and share is not None else "",
        link=part.site if part.in_circuit else "",
    )


def _legend(largest: float, digits: int, has_sign: bool) -> list[dict]:
    """Swatches from the most negative to the most positive value."""
    shares = (-1, -0.5, -0.1, 0, 0.1, 0.5, 1) if has_sign else (0, 0.1, 0.25, 0.5, 1)
    written = wording.signed if has_sign else wording.number
    return [
        {
            "label": written(share * largest, digits) if share else "0",
            "tone": "neg" if share < 0 else "pos",
            "opacity": f"{opacity(share * largest, largest):.2f}",
        }
        for share in shares
    ]


def member_rows(run: Run, scale: Scale) -> list[dict]:
    """The ranked table: one row a member, largest absolute effect first."""
    rows = []
    for part in run.members:
        share = scale.share(part.effect)
        rows.append(
            {
                "site": part.site,
                "roles": [(role, f"{value:.2f}") for role, value in roles_named(part.roles)[:2]],
                "score": scale.score(part.score),
                "effect": wording.signed(part.effect, scale.places),
                "low": wording.signed(part.low, scale.places),
                "high": wording.signed(part.high, scale.places),
                "share": wording.percent(share),
                "bar": 100 * abs(part.effect) / scale.largest_effect if scale.largest_effect else 0,
                "tone": "neg" if part.effect < 0 else "pos",
                "direct": wording.signed(part.direct, scale.places),
                "top": [wording.token(text, 16) for text, _ in (part.writes.top[:3] if part.writes else ())],
            }
        )
    return rows


def edges_told(run: Run) -> list[Edge]:
    """Edges between members, largest absolute score first, down to a thousandth of the largest.

    What is smaller is mostly rounding, whose sign would be read as help or harm.
    """
    known = {part.site for part in run.members}
    among = [edge for edge in run.edges if {edge.sender, edge.receiver} <= known and edge.score]
    least = FAINT * max((abs(edge.score) for edge in among), default=0.0)
    return sorted((e for e in among if abs(e.score) >= least), key=lambda e: -abs(e.score))


def edge_figure(run: Run, scale: Scale) -> Markup | None:
    """The graph of the strongest edges; ``None`` where no edges were scored."""
    if not run.members or not run.edges:
        return None
    return edge_graph(
        member_nodes(run, scale),
        edges_told(run),
        "Strongest edges among the members, by layer",
        signed=not counts_code_pairs(run),
    )


def member_nodes(run: Run, scale: Scale) -> list[Node]:
    """The members as a graph of edges draws them, in reading order."""
    return [
        Node(part.site, part.layer, part.effect, f"{part.site}: {effect_text(part, scale)}")
        for part in sorted(run.members, key=lambda part: (part.layer, part.head or 0))
    ]
