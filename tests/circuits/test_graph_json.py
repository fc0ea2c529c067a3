"""Circuits in the JSON of the EAP-IG and MIB code: written as theirs, read back, and broken files named."""

import json
from dataclasses import replace

import pytest

import interp
from interp.circuits.circuit import Circuit, Component, Edge
from interp.circuits.graph_json import read_graph, write_graph
from interp.errors import InputError
from interp.models.sites import parse_site


def _component(site, score, inside=False):
    at = parse_site(site)
    return Component(site=site, layer=at.layer, head=at.head, score=score, in_circuit=inside)


def _edge(sender, receiver, into, score):
    return Edge(sender=sender, receiver=receiver, into=into, score=score)


def circuit(universe="heads+mlps"):
    scores = {"a0.h0": 0.5, "a0.h1": 0.01, "m0": 0.2, "a1.h0": -0.4, "a1.h1": 0.03, "m1": 0.3}
    components = tuple(
        _component(site, score, site in {"a0.h0", "m0", "a1.h0"})
        for site, score in scores.items()
        if universe == "heads+mlps" or site.startswith("a")
    )
    edges = (
        _edge("a0.h0", "a1.h0", "q", 0.4),
        _edge("a1.h0", "logits", None, -0.3),
        _edge("a0.h0", "m1", None, 0.2),
        _edge("input", "a0.h1", "v", 0.1),
    )
    metric, method = {"clean": 3.0, "corrupt": -1.0}, "adaptive-patching"
    return Circuit("tiny", "ioi", method, universe, 2, 2, metric, components, edges, {"seed": 0})


def graph(tmp_path, of, **options) -> dict:
    """What is written of a circuit."""
    write_graph(of, tmp_path / "g.json", **({"d_model": 16} | options))
    return json.loads((tmp_path / "g.json").read_text())


@pytest.mark.parametrize("universe", ["heads+mlps", "heads"])
@pytest.mark.parametrize("helpful", ["positive", "negative"])
def test_a_circuit_survives_the_format(tmp_path, universe, helpful):
    write_graph(circuit(universe), tmp_path / "g.json", d_model=16, helpful=helpful)
    assert read_graph(tmp_path / "g.json") == circuit(universe)


def test_scores_of_mlps_that_stay_live_make_no_members(tmp_path):
    plain = circuit("heads")
    scored = replace(plain, components=(*plain.components, _component("m0", 0.2)))
    nodes = graph(tmp_path, scored)["nodes"]
    assert nodes["m0"] == {"in_graph": True, "score": 0.2} and nodes["m1"] == {"in_graph": True}
    assert nodes["a1.h1"]["in_graph"] is False
    found, wanted = (
        sorted(g.components, key=lambda c: c.site) for g in (read_graph(tmp_path / "g.json"), scored)
    )
    assert found == wanted


def test_the_file_is_what_eap_ig_writes(tmp_path):
    value = graph(tmp_path, circuit())
    assert value["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 16}
    assert list(value["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert value["nodes"]["a1.h0"] == {"in_graph": True, "score": -0.4}
    assert value["nodes"]["input"] == {"in_graph": True}
    assert value["edges"]["a0.h0->a1.h0<q>"] == {"score": 0.4, "in_graph": True}
    assert value["edges"]["a0.h0->m1"] == {"score": 0.2, "in_graph": False}
    assert value["edges"]["m0->logits"] == {"score": 0.0, "in_graph": True}
    assert "a0.h0->a0.h1<q>" not in value["edges"] and "a1.h0->m1" in value["edges"]
    # parallel models have no edge from a head to the MLP of its layer
    edges = graph(tmp_path, circuit(), parallel_attn_mlp=True)["edges"]
    assert "a1.h0->m1" not in edges and "a0.h0->m1" in edges


def test_gpt2_has_the_published_number_of_edges(tmp_path):
    value = graph(tmp_path, replace(circuit(), n_layers=12, n_heads=12, components=(), edges=()), d_model=768)
    assert (len(value["nodes"]), len(value["edges"])) == (158, 32_491)


def test_mib_layout_keeps_membership_and_edges_and_folds_edges_onto_nodes(tmp_path):
    value = graph(tmp_path, circuit(), layout="mib", helpful="negative")
    assert value["nodes"]["a0.h0"] is True and value["nodes"]["m1"] is False
    assert value["edges"]["a0.h0->a1.h0<q>"]["score"] == -0.4
    read = read_graph(tmp_path / "g.json")
    assert read.edges == circuit().edges
    assert {c.site for c in read.members} == {"a0.h0", "m0", "a1.h0"}
    folded = {"a0.h0": 0.4, "a0.h1": 0.1, "m0": 0.0, "a1.h0": 0.4, "a1.h1": 0.0, "m1": 0.2}
    assert {c.site: c.score for c in read.components} == folded


def test_unsplit_edges_into_heads_are_divided_over_q_k_and_v_and_impossible_ones_refused(tmp_path):
    graph(tmp_path, replace(circuit(), edges=(_edge("a0.h0", "a1.h0", None, 0.3),)))
    read = read_graph(tmp_path / "g.json").edges
    assert {e.into for e in read} == {"q", "k", "v"}
    assert sum(e.score for e in read) == pytest.approx(0.3)
    backwards = replace(circuit(), edges=(_edge("a1.h0", "a0.h0", "q", 1.0),))
    with pytest.raises(InputError, match="a1.h0->a0.h0"):
        write_graph(backwards, tmp_path / "backwards.json", d_model=16)
    assert not (tmp_path / "backwards.json").exists()


FOREIGN = {
    "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4},
    "nodes": {"input": True, "a0.h0": True, "m0": False, "logits": True},
    "edges": {
        "input->a0.h0<v>": {"score": -2.0, "in_graph": True},
        "a0.h0->logits": {"score": None, "in_graph": True},
        "m0->logits": {"score": 0.5, "in_graph": False},
    },
}


def write(tmp_path, **changes):
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(FOREIGN | changes))
    return path


def test_foreign_graph_is_read_with_the_sign_that_is_asked_for(tmp_path):
    path = write(tmp_path)
    plain, turned = read_graph(path), read_graph(path, model="gpt2", task="ioi", helpful="negative")
    assert plain.edges[0] == _edge("input", "a0.h0", "v", -2.0)
    assert turned.edges[0] == _edge("input", "a0.h0", "v", 2.0)
    assert [c.site for c in plain.members] == ["a0.h0"]
    assert (plain.model, turned.model, turned.task) == ("unknown", "gpt2", "ioi")
    assert plain.metric == {} and plain.provenance == {"source": "foreign.json"}


def test_scores_that_a_foreign_graph_lacks(tmp_path):
    edges = {name: {"score": None, "in_graph": e["in_graph"]} for name, e in FOREIGN["edges"].items()}
    read = read_graph(write(tmp_path, edges=edges))
    assert {(e.sender, e.receiver) for e in read.edges} == {("input", "a0.h0"), ("a0.h0", "logits")}
    nodes = {name: {"in_graph": True, "score": float("nan")} for name in FOREIGN["nodes"]}
    read = read_graph(write(tmp_path, nodes=nodes))
    assert {c.site: c.score for c in read.components} == {"a0.h0": -2.0, "m0": 0.5}


SCORED = {"score": 1.0, "in_graph": True}


NAN, INF = ({"score": float(x), "in_graph": True} for x in ("nan", "inf"))
BROKEN = [
    {"cfg": {}},
    {"cfg": {"n_layers": "many", "n_heads": 1}},
    {"nodes": []},
    *({"nodes": {name: True}} for name in ("a7.h0", "a0", "r0", "x")),
    *({"nodes": {"a0.h0": node}} for node in ({}, INF)),
    {"interp": "x"},
    *({"edges": {name: SCORED}} for name in ("a0.h0", "input->a0.h0", "input->a0.h0<x>", "input->m0<q>")),
    {"edges": {"input->m9": SCORED}},
    *({"edges": {"input->m0": edge}} for edge in (NAN, SCORED | {"score": "high"}, 1.0)),
    *(
        {"edges": {f"input->a0.h0<{into}>": NAN if into == bad else SCORED for into in "qkv"}}
        for bad in "qkv"
    ),
]


@pytest.mark.parametrize("content", ["", "[]", "{", '"graph"', *BROKEN])
def test_a_broken_graph_is_an_input_error_that_names_the_file(tmp_path, content):
    text = content if isinstance(content, str) else json.dumps(FOREIGN | content)
    (tmp_path / "foreign.json").write_text(text)
    with pytest.raises(InputError, match="foreign.json"):
        read_graph(tmp_path / "foreign.json")


def test_scores_without_a_sign_are_written_with_that_of_the_effect(tmp_path):
    run = interp.find_circuit("planted-suppression", "planted-suppression", method="hisp", n=8, candidates=10)
    assert not run.settings.signed
    nodes = graph(tmp_path, run.circuit, d_model=8)["nodes"]
    for head in run.heads:
        node = nodes[head.site]
        assert ("score" in node) == (head.effect is not None)
        assert "score" not in node or node["score"] * head.effect >= 0
    assert any(node.get("score", 0) < 0 for node in nodes.values())
    assert sum("score" in nodes[head.site] for head in run.heads) == 10
