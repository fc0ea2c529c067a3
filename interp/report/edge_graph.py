"""The edges among a circuit's members, drawn by layer as one SVG that also stands alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from interp.circuits.circuit import Edge
from interp.report.figures import CSS, opacity, svg
from interp.report.plots import spread

DRAWN = 40
"""Edges drawn, largest absolute score first; more would be a thicket."""

NODE_WIDTH, NODE_HEIGHT = 48.0, 36.0
_PORTS = {"q": -11.0, "k": 0.0, "v": 11.0, None: 0.0}
_SWEEPS = 400


@dataclass(frozen=True)
class Node:
    """A member: ``site`` as written everywhere, the layer it stands in, its signed effect."""

    site: str
    layer: int
    effect: float
    title: str

    @property
    def is_mlp(self) -> bool:
        return self.site.startswith("m")

    @property
    def column(self) -> tuple[int, bool]:
        """A layer's MLP comes after its heads."""
        return (self.layer, self.is_mlp)

    @property
    def name(self) -> str:
        """``23.3`` for a23.h3: the graph holds nothing but heads and MLPs."""
        return self.site if self.is_mlp else self.site[1:].replace(".h", ".")


def edge_graph(nodes: Sequence[Node], edges: Sequence[Edge], label: str, *, signed: bool = True) -> Markup:
    """Draw members by layer and the strongest edges, which end at the receiver's q, k or v.

    Args:
        edges: largest first; their ends are nodes.
        signed: whether the sign of a score says if an edge helps; if not, all are grey.
    """
    drawn = edges[:DRAWN]
    columns = sorted({node.column for node in nodes})
    per_column = max(sum(node.column == c for node in nodes) for c in columns)
    pitch = min(150.0, max(NODE_WIDTH + 18.0, 1040 / len(columns)))
    height = min(620.0, max(240.0, 120.0 + 62 * per_column + 6 * len(nodes)))
    height = max(height, 30 + (NODE_HEIGHT + 8) * per_column)  # a full column does not fit into less
    x = np.array([(columns.index(node.column) + 0.5) * pitch for node in nodes])
    y = place_nodes(nodes, drawn, columns, height)
    where = {node.site: (x[i], y[i]) for i, node in enumerate(nodes)}
    body = [Markup("<style>{}</style>").format(CSS)]
    for c, (layer, is_mlp) in enumerate(columns):
        at = f"{(c + 0.5) * pitch:.1f}"
        body.append(
            Markup('<path class="line" stroke-dasharray="1 5" d="M{} 12V{:.0f}"/>').format(at, height)
        )
        body.append(
            Markup('<text class="soft" x="{}" y="{:.0f}" text-anchor="middle">{}{}</text>').format(
                at, height + 16, "mlp " if is_mlp else "", layer
            )
        )
    largest = abs(drawn[0].score) if drawn else 1.0
    body += [_edge(e, where, largest, signed) for e in reversed(drawn)]
    most = max(abs(node.effect) for node in nodes)
    body += [_node(node, *where[node.site], most) for node in nodes]
    body.append(
        Markup('<text class="soft" x="{:.1f}" y="{:.0f}" text-anchor="middle">layer</text>').format(
            len(columns) * pitch / 2, height + 33
        )
    )
    return svg(len(columns) * pitch, height + 40, label, body, role="group")


def place_nodes(
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    columns: list[tuple[int, bool]],
    height: float,
    extent: float = NODE_HEIGHT,
) -> Float[np.ndarray, " node"]:
    """Vertical places: edges pull their ends together and all to the middle, nodes in near columns push apart.

    Without the push an edge would run behind the nodes between its ends.

    Args:
        height: there is for them.
        extent: that a node takes of it.
    """
    index = {node.site: i for i, node in enumerate(nodes)}
    column = np.array([columns.index(node.column) for node in nodes])
    pull = np.zeros((len(nodes), len(nodes)))
    largest = max((abs(e.score) for e in edges), default=1.0)
    for e in edges:
        i, j = index[e.sender], index[e.receiver]
        pull[i, j] += abs(e.score) / largest
        pull[j, i] = pull[i, j]
    distance = np.abs(column[:, None] - column[None, :])
    push = np.where(distance <= 3, 1.0 / (1 + distance), 0.0)
    np.fill_diagonal(push, 0.0)
    low, high = 14 + extent / 2, height - extent / 2 - 4
    y = np.random.default_rng(0).uniform(low, high, len(nodes))
    reach = extent + 22
    for sweep in range(_SWEEPS):
        gap = y[:, None] - y[None, :]
        away = np.sign(gap) * np.clip(reach - np.abs(gap), 0, None) * push
        toward = -gap * pull / np.maximum(pull.sum(1, keepdims=True), 1.0)
        moved = (away + 0.25 * toward).sum(1) + 0.06 * ((low + high) / 2 - y)
        y = np.clip(y + moved * 0.5 * (1 - sweep / _SWEEPS), low, high)
    if np.ptp(y) > 0:
        y = low + (high - low) * (y - y.min()) / np.ptp(y)
    for c in set(column):
        rows = np.flatnonzero(column == c)
        rows = rows[np.argsort(y[rows], kind="stable")]
        y[rows] = spread(y[rows], extent + 8, low, high)
    return y


def _edge(edge: Edge, where: dict[str, tuple[float, float]], largest: float, signed: bool) -> Markup:
    (x0, y0), (x1, y1) = where[edge.sender], where[edge.receiver]
    x0, x1, y1 = x0 + NODE_WIDTH / 2, x1 - NODE_WIDTH / 2, y1 + _PORTS[edge.into]
    bend = max(18.0, 0.45 * (x1 - x0))
    share = abs(edge.score) / largest
    into = f" ({edge.into})" if edge.into else ""
    return Markup(
        '<path class="edge {}" stroke-width="{:.1f}" stroke-opacity="{:.2f}" '
        'd="M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}">'
        "<title>{} → {}{}: {}</title></path>"
    ).format(
        "counted" if not signed else "neg" if edge.score < 0 else "pos",
        0.8 + 5 * share,
        0.35 + 0.5 * share,
        *(x0, y0, x0 + bend, y0, x1 - bend, y1, x1, y1),
        *(edge.sender, edge.receiver, into, f"{edge.score:+.3g}" if signed else f"{edge.score:g}"),
    )


def _node(node: Node, x: float, y: float, most: float) -> Markup:
    shade = opacity(node.effect, most)
    box = Markup('x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="5"').format(
        x - NODE_WIDTH / 2, y - NODE_HEIGHT / 2, NODE_WIDTH, NODE_HEIGHT
    )
    ports = "" if node.is_mlp else "qkv"
    letters = Markup("").join(
        Markup('<text class="small on" x="{:.1f}" y="{:.1f}">{}</text>').format(
            x - NODE_WIDTH / 2 + 3, y + _PORTS[letter] + 3, letter
        )
        for letter in ports
    )
    return Markup(
        '<a href="#{}" aria-label="{title}"><title>{title}</title><rect class="paper" {box}/>'
        '<rect class="{}" fill-opacity="{:.2f}" {box}/><rect class="line" {box}/>{}'
        '<text class="on" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text></a>'
    ).format(
        node.site,
        "neg" if node.effect < 0 else "pos",
        shade,
        letters,
        x + (4 if ports else 0),
        y + 4,
        node.name,
        title=node.title,
        box=box,
    )
