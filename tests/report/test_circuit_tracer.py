"""Graphs for circuit-tracer: of its schema, with every measured number in its place."""

import json

import pytest
from pydantic import ConfigDict, create_model

from interp.contrast.explanation import Why
from interp.errors import InputError
from interp.programs.schema import Group, Program, SlotCodes
from interp.report import circuit_tracer
from tests.contrast.synthetic import make_why
from tests.report.synthetic import EVIL, make_run


def _schema(name: str, **fields):
    """A strict model; a field that may be left out has a default."""
    fields = {key: kind if isinstance(kind, tuple) else (kind, ...) for key, kind in fields.items()}
    return create_model(name, __config__=ConfigDict(strict=True, extra="forbid"), **fields)


MAYBE = (float | None, None)
# the published form, ``frontend/graph_models.py`` of circuit-tracer 0.5
METADATA = {"slug": str, "scan": str, "transcoder_list": list[str], "prompt_tokens": list[str], "prompt": str}
METADATA |= {"node_threshold": (float | None, ...), "schema_version": (int | None, ...)}
VIEW = {"pinnedIds": list[str], "supernodes": list[list[str]], "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float}
NODE |= {"is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str}
_Graph = _schema(
    "Graph",
    metadata=_schema("Metadata", **METADATA),
    qParams=_schema("View", **VIEW),
    nodes=list[_schema("Node", **NODE, influence=MAYBE, activation=MAYBE)],
    links=list[_schema("Link", source=str, target=str, weight=float)],
)


def _read(graph):
    read = _Graph.model_validate_json(json.dumps(graph))
    names = [node.node_id for node in read.nodes]
    assert len(names) == len(set(names))
    assert {end for link in read.links for end in (link.source, link.target)} <= set(names)
    assert set(read.qParams.pinnedIds) | {n for _, *ids in read.qParams.supernodes for n in ids} <= set(names)
    [logit] = [node for node in read.nodes if node.feature_type == "logit"]
    # the viewer reads the probability from the label
    assert float(logit.clerp.split("(p=")[1].split(")")[0]) == pytest.approx(logit.token_prob, abs=1e-3)
    return read, logit


def test_an_explanation_keeps_its_nodes_and_arrows():
    why = make_why(12, 9, mlps=True)
    graph, logit = _read(circuit_tracer.why_graph(why, "mine"))
    parts = [node for node in graph.nodes if node.feature_type in ("attention head", "mlp")]
    assert sorted(node.activation for node in parts) == sorted(node.effect for node in why.nodes)
    assert [node.ctx_idx for node in parts] == [node.position for node in why.nodes]
    assert {node.feature_type for node in parts} == {"attention head", "mlp"}
    assert len({node.feature for node in parts}) == len({node.site for node in why.nodes})
    to_logit = [link.weight for link in graph.links if link.target == logit.node_id]
    assert sorted(to_logit) == sorted(node.effect for node in why.nodes)
    assert [link.weight for link in graph.links[: len(why.arrows)]] == [arrow.direct for arrow in why.arrows]
    assert graph.metadata.prompt_tokens == why.tokens and len(graph.qParams.pinnedIds) == why.kept + 1
    assert min(node.influence for node in parts) == 0


def test_a_program_stands_at_the_tokens_of_the_first_prompt():
    plain = make_run()
    sites = [edge.sender for edge in plain.edges[:2]] + [plain.edges[0].receiver]
    shares = {"carried": 0.9, "own_cost": 0.0}
    slots = [
        SlotCodes(site=site, role=role, effect=effect, low=0.0, high=3.0, codes=4, bits=1.5, variable=EVIL, **shares)
        for site, role, effect in zip(sites, ("S1", "S2", "S2"), (1.0, -2.0, 0.001), strict=True)
    ]
    beyond = slots[0].model_copy(update={"role": "nowhere"})
    group = {"name": "", "variable": EVIL, "sign": 1, "input": True, "effect": 1.0, "bits": 1.0}
    groups = [Group(role="S2", sites=sites[1:], **group), Group(role="S1", sites=sites[:1], **group)]
    run = plain.model_copy(update={"program": Program(slots=[*slots, beyond], groups=groups)})
    graph, logit = _read(circuit_tracer.program_graph(run, "mine"))
    positions, parts = run.examples[0].positions, [n for n in graph.nodes if n.influence is not None]
    names = [f"a{node.layer}.h{node.node_id.split('_')[1]}" for node in parts]
    assert names == sites
    assert [(node.ctx_idx, node.activation) for node in parts] == [(positions[s.role], s.effect) for s in slots]
    # S1 stands before S2, so the edge can be drawn, and however weak it is beside the smaller effect
    weights = {(link.source, link.target): link.weight for link in graph.links}
    into = [e.score for e in plain.edges if (e.sender, e.receiver) == (sites[0], sites[2])]
    assert weights[parts[0].node_id, parts[2].node_id] == pytest.approx(sum(into)) and len(into) > 1
    assert len(weights) == len(graph.links)
    assert (parts[2].node_id, parts[0].node_id) not in weights
    assert [weights[node.node_id, logit.node_id] for node in parts] == [1.0, -2.0, 0.001]
    assert graph.qParams.supernodes == [["line 1", parts[1].node_id, parts[2].node_id]]
    with pytest.raises(InputError):
        circuit_tracer.program_graph(run.model_copy(update={"program": None}), "mine")


def test_the_command_enters_graphs_in_the_viewers_index(tmp_path, command):
    why = make_why(12, 9, mlps=True)
    why.save(folder := tmp_path / "why")
    for name in ("one", "two", "two"):
        out = str(tmp_path / f"{name}.json")
        assert not command("export", str(folder), "--layout", "circuit-tracer", "--out", out, "--overwrite").code
    assert Why.load(folder).nodes == why.nodes
    index = json.loads((tmp_path / circuit_tracer.INDEX).read_text())
    assert [graph["slug"] for graph in index["graphs"]] == ["one", "two"]
    assert _read(json.loads((tmp_path / "two.json").read_text()))
    (tmp_path / circuit_tracer.INDEX).write_text("[]")
    with pytest.raises(InputError, match=circuit_tracer.INDEX):
        circuit_tracer.write(circuit_tracer.why_graph(why, "three"), tmp_path / "three.json")
    with pytest.raises(InputError, match=circuit_tracer.INDEX):
        circuit_tracer.write(circuit_tracer.why_graph(why, "graph-metadata"), tmp_path / circuit_tracer.INDEX)
    assert not (tmp_path / "three.json").exists()
