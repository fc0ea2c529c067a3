"""The graph JSON of EAP-IG (hannamw/EAP-IG) and of the MIB benchmark, written from our :class:`Circuit`.

A graph has nodes ``input``, ``a5.h3``, ``m2``, ``logits`` and edges ``a5.h3->a9.h1<q>``, ``a5.h3->m7``,
``m7->logits``; ``cfg`` holds n_layers, n_heads, parallel_attn_mlp and d_model; edges are
``{name: {"score": …, "in_graph": …}}``. Two layouts of nodes are about: ``eap-ig`` (now),
``{name: {"in_graph": …, "score": …}}``, and ``mib`` (older, also the circuits that MIB ships),
``{name: in_graph}``.

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
from typing import Literal

from interp.circuits.circuit import Circuit, Component, Edge
from interp.errors import InputError
from interp.files import write_text
from interp.interventions.edges import ComponentGraph

Helpful = Literal["positive", "negative"]
Layout = Literal["eap-ig", "mib"]
_DESCRIPTION = ("model", "task", "method", "universe", "metric", "provenance")
"""What the file says of the circuit besides."""


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
    universe keeps live; an edge is if both its ends are. Edge scores ride along; an unsplit score into a head goes to
    q, k and v by a third each, as first-order scores add.

    Args:
        d_model, parallel_attn_mlp: what EAP-IG wants to know of the model and a circuit does not hold.
        helpful: the sign that helpful components get in the file. The ``mib`` layout has no node scores.
    """
    sign = 1.0 if helpful == "positive" else -1.0
    components = {c.site: c for c in circuit.components}
    graph = ComponentGraph(circuit.n_layers, circuit.n_heads, mlps=True, sequential=not parallel_attn_mlp)
    nodes = (*graph.senders, "logits")
    live_mlps = circuit.universe == "heads"
    members = {site for site, part in components.items() if part.in_circuit} | {"input", "logits"}
    inside = {node: node in members or (live_mlps and node.startswith("m")) for node in nodes}
    edges = {
        name: {"score": 0.0, "in_graph": inside[sender] and inside[receiver]}
        for name, sender, receiver in _edges(graph)
    }
    for name, score in _named(circuit.edges):
        if name not in edges:
            raise InputError(f"edge {name}: a graph of {circuit.n_layers} layers has no such edge")
        edges[name]["score"] = sign * score
    scores = {
        node: {"score": sign * signed_score}
        for node in nodes
        if node in components and (signed_score := _signed(components[node], circuit.signed)) is not None
    }
    shape = {"n_layers": circuit.n_layers, "n_heads": circuit.n_heads}
    value = {
        "cfg": shape | {"parallel_attn_mlp": parallel_attn_mlp, "d_model": d_model},
        "nodes": {node: {"in_graph": inside[node], **scores.get(node, {})} for node in nodes},
        "edges": edges,
        "interp": {"helpful": helpful, **{name: getattr(circuit, name) for name in _DESCRIPTION}},
    }
    if layout == "mib":
        value["nodes"] = inside
    write_text(path, json.dumps(value, allow_nan=False, ensure_ascii=False))


def _signed(part: Component, signed: bool) -> float | None:
    """A component's score; of a method whose scores tell no sign with that of the measured effect, if there is one."""
    if signed:
        return part.score
    return None if part.effect is None else math.copysign(part.score, part.effect)


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
