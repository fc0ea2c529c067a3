"""The graph JSON of EAP-IG (hannamw/EAP-IG) and of the MIB benchmark, to and from our :class:`Circuit`.

A graph has nodes ``input``, ``a5.h3``, ``m2``, ``logits`` and edges ``a5.h3->a9.h1<q>``, ``a5.h3->m7``,
``m7->logits``; ``cfg`` holds n_layers, n_heads, parallel_attn_mlp and d_model; edges are
``{name: {"score": …, "in_graph": …}}``. Two layouts of nodes are about: ``eap-ig`` (now),
``{name: {"in_graph": …, "score": …}}``, and ``mib`` (older, also the circuits that MIB ships),
``{name: in_graph}``. Reading takes both, and files that list only some edges.

Sign. Our scores are positive where a component helps the metric. EAP-IG multiplies (corrupt − clean) by the
gradient of whatever the caller passes as metric: its own scripts pass the loss (minus the metric), which
makes helpful edges positive; in the circuits that MIB ships they are negative. No such file says which, so
the argument ``helpful`` does; files written here also carry it in an extra top-level key, ``interp``, which
the loaders of both projects ignore.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from interp.circuits.circuit import Circuit, Component, Edge
from interp.errors import InputError
from interp.files import read_json, write_text
from interp.models.sites import parse_site
from interp.scores.component_graph import ComponentGraph

Helpful = Literal["positive", "negative"]
Layout = Literal["eap-ig", "mib"]


def write_graph(
    circuit: Circuit,
    path: Path,
    *,
    d_model: int,
    parallel_attn_mlp: bool = False,
    layout: Layout = "eap-ig",
    helpful: Helpful = "positive",
) -> None:
    """Write a circuit with every edge of the model's graph.

    A node is in the graph if it is a member, is ``input`` or ``logits``, or is an MLP that the circuit's
    universe keeps live; an edge is if both its ends are. This is the node-level circuit that our activation patching
    judges; edge scores ride along. An unsplit score into a head goes to q, k and v by a third each, as
    first-order scores add.

    Args:
        d_model, parallel_attn_mlp: what EAP-IG wants to know of the model and a circuit does not hold.
        helpful: the sign that helpful components get in the file. The ``mib`` layout has no node scores.

    Raises:
        InputError: an edge that the model's graph does not have.
    """
    sign = 1.0 if helpful == "positive" else -1.0
    components = {c.site: c for c in circuit.components}
    graph = ComponentGraph(circuit.n_layers, circuit.n_heads, mlps=True, sequential=not parallel_attn_mlp)
    nodes = (*graph.senders, "logits")
    live_mlps = circuit.universe == "heads"
    inside = {
        node: node in ("input", "logits")
        or (live_mlps and node.startswith("m"))
        or (node in components and components[node].in_circuit)
        for node in nodes
    }
    edges = {
        name: {"score": 0.0, "in_graph": inside[sender] and inside[receiver]}
        for name, sender, receiver in _edges(graph)
    }
    for name, score in _named(circuit.edges):
        if name not in edges:
            raise InputError(f"edge {name}: a graph of {circuit.n_layers} layers has no such edge")
        edges[name]["score"] = sign * score
    scores = {
        node: {"score": sign * own}
        for node in nodes
        if node in components and (own := _signed(components[node], circuit.signed)) is not None
    }
    value = {
        "cfg": {
            "n_layers": circuit.n_layers,
            "n_heads": circuit.n_heads,
            "parallel_attn_mlp": parallel_attn_mlp,
            "d_model": d_model,
        },
        "nodes": inside
        if layout == "mib"
        else {node: {"in_graph": inside[node], **scores.get(node, {})} for node in nodes},
        "edges": edges,
        "interp": {
            "helpful": helpful,
            "model": circuit.model,
            "task": circuit.task,
            "method": circuit.method,
            "universe": circuit.universe,
            "metric": circuit.metric,
            "provenance": circuit.provenance,
        },
    }
    write_text(path, json.dumps(value, allow_nan=False, ensure_ascii=False))


def read_graph(
    path: Path, *, model: str | None = None, task: str | None = None, helpful: Helpful | None = None
) -> Circuit:
    """Read a graph of either layout.

    Nodes without a score of their own get that of the strongest edge that touches them, with its sign.
    Effects are not in the format (``None``). Edges are those with a score; in a graph without any, those that
    are in it. ``metric`` is empty for foreign files.

    Args:
        model, task: names to give the circuit where the file has none (``unknown``).
        helpful: the sign of helpful components in the file; by default what the file says, else ``positive``.

    Raises:
        InputError: not a graph, or one that names nodes its ``cfg`` does not have.
    """
    value = _load(path)
    ours = value.get("interp", {})
    try:
        sign = 1.0 if (helpful or ours.get("helpful", "positive")) == "positive" else -1.0
        n_layers, n_heads = int(value["cfg"]["n_layers"]), int(value["cfg"]["n_heads"])
        nodes = {name: _node(name, entry) for name, entry in value["nodes"].items()}
        edges = [
            Edge(**_ends(name), score=sign * _finite(f"edge {name}", e["score"] or 0.0))
            for name, e in value["edges"].items()
        ]
        in_graph = [bool(e["in_graph"]) for e in value["edges"].values()]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not an EAP-IG graph ({error!r})") from None
    for name in {*nodes, *(e.sender for e in edges), *(e.receiver for e in edges)}:
        if not _fits(name, n_layers, n_heads):
            raise InputError(f"{path}: node {name!r} does not fit {n_layers} layers of {n_heads} heads")
    scored = [e for e in edges if e.score != 0.0]
    members = [e for e, inside in zip(edges, in_graph, strict=True) if inside]
    strongest: dict[str, float] = {}
    for edge in scored:
        for end in (edge.sender, edge.receiver):
            if abs(edge.score) > abs(strongest.get(end, 0.0)):
                strongest[end] = edge.score
    components = tuple(
        Component(
            site=name,
            layer=parse_site(name).layer,
            head=parse_site(name).head,
            score=strongest.get(name, 0.0) if score is None else sign * score,
            in_circuit=inside and not _live(name, ours),
        )
        for name, (inside, score) in nodes.items()
        if name not in ("input", "logits") and not (score is None and _live(name, ours))
    )
    return Circuit(
        model=model or ours.get("model", "unknown"),
        task=task or ours.get("task", "unknown"),
        method=ours.get("method", "eap-ig graph"),
        universe=ours.get("universe", "heads+mlps"),
        n_layers=n_layers,
        n_heads=n_heads,
        metric=ours.get("metric", {}),
        components=components,
        edges=tuple(sorted(scored or members, key=lambda e: -abs(e.score))),
        provenance=ours.get("provenance", {"source": Path(path).name}),
    )


def _signed(part: Component, signed: bool) -> float | None:
    """A component's score; of a method whose scores tell no sign with that of the measured effect, if there is one."""
    if signed:
        return part.score
    return None if part.effect is None else math.copysign(part.score, part.effect)


def _live(name: str, ours: dict) -> bool:
    """Whether a node is an MLP that only stays live: in the graph, and no member of a heads-only circuit."""
    return ours.get("universe") == "heads" and name.startswith("m")


def _load(path: Path) -> dict:
    try:
        value = read_json(Path(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    missing = {"cfg", "nodes", "edges"} - set(value if isinstance(value, dict) else ())
    if missing:
        raise InputError(f"{path}: not an EAP-IG graph, it lacks {', '.join(sorted(missing))}")
    return value


def _finite(what: str, score: Any) -> float:
    if not math.isfinite(number := float(score)):
        raise InputError(f"the score of {what} is {number}, not a finite number")
    return number


def _node(name: str, entry: bool | dict) -> tuple[bool, float | None]:
    if isinstance(entry, bool):
        return entry, None
    score = entry.get("score")
    # EAP-IG writes NaN for a node that was never scored
    known = score is not None and not math.isnan(score)
    return bool(entry["in_graph"]), _finite(f"node {name}", score) if known else None


def _fits(name: str, n_layers: int, n_heads: int) -> bool:
    if name in ("input", "logits"):
        return True
    try:
        site = parse_site(name)
    except InputError:
        return False
    if site.kind == "resid" or (site.kind == "attn" and site.head is None):
        return False
    return site.layer < n_layers and (site.head is None or site.head < n_heads)


def _edges(graph: ComponentGraph) -> Iterator[tuple[str, str, str]]:
    """(name, sender, receiver) of every edge."""
    for receiver in graph.receivers:
        into = "" if receiver.into is None else f"<{receiver.into}>"
        for sender in graph.senders[: graph.reads(receiver)]:
            yield f"{sender}->{receiver}{into}", sender, str(receiver)


def _named(edges: tuple[Edge, ...]) -> Iterator[tuple[str, float]]:
    for edge in edges:
        plain = f"{edge.sender}->{edge.receiver}"
        if edge.into is not None:
            yield f"{plain}<{edge.into}>", edge.score
        elif edge.receiver.startswith("a"):
            for letter in "qkv":
                yield f"{plain}<{letter}>", edge.score / 3
        else:
            yield plain, edge.score


def _ends(name: str) -> dict[str, Any]:
    sender, arrow, rest = name.partition("->")
    receiver, bracket, into = rest.partition("<")
    if not arrow or (bracket and into not in ("q>", "k>", "v>")):
        raise ValueError(f"edge {name!r}")
    if receiver not in ("logits", "input") and (parse_site(receiver).kind == "attn") != bool(bracket):
        raise ValueError(f"edge {name!r}")
    return {"sender": sender, "receiver": receiver, "into": into.rstrip(">") or None}
