"""Circuits in the JSON of the EAP-IG and MIB code."""

import json
from dataclasses import replace

import pytest

import interp
from interp.circuits.circuit import Circuit, Component, Edge
from interp.circuits.graph_json import write_graph
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


def graph(tmp_path, model, **options) -> dict:
    """What is written of a circuit."""
    write_graph(model, tmp_path / "g.json", **({"d_model": 16} | options))
    return json.loads((tmp_path / "g.json").read_text())


@pytest.mark.parametrize(("helpful", "sign"), [("positive", 1), ("negative", -1)])
def test_members_scores_and_edges_are_written(tmp_path, helpful, sign):
    value = graph(tmp_path, circuit(), helpful=helpful)
    members = {node for node, entry in value["nodes"].items() if entry["in_graph"]}
    assert members == {"input", "a0.h0", "m0", "a1.h0", "logits"} and value["interp"]["helpful"] == helpful
    for part in circuit().components:
        assert value["nodes"][part.site]["score"] == sign * part.score
    scored = {name: edge["score"] for name, edge in value["edges"].items() if edge["score"]}
    assert scored == {
        "a0.h0->a1.h0<q>": sign * 0.4,
        "a1.h0->logits": sign * -0.3,
        "a0.h0->m1": sign * 0.2,
        "input->a0.h1<v>": sign * 0.1,
    }


def test_scores_of_mlps_that_stay_live_make_no_members(tmp_path):
    plain = circuit("heads")
    scored = replace(plain, components=(*plain.components, _component("m0", 0.2)))
    nodes = graph(tmp_path, scored)["nodes"]
    assert nodes["m0"] == {"in_graph": True, "score": 0.2} and nodes["m1"] == {"in_graph": True}
    assert nodes["a1.h1"]["in_graph"] is False


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


def test_mib_layout_keeps_membership_and_edges(tmp_path):
    value = graph(tmp_path, circuit(), layout="mib", helpful="negative")
    assert value["nodes"]["a0.h0"] is True and value["nodes"]["m1"] is False
    assert value["edges"]["a0.h0->a1.h0<q>"]["score"] == -0.4


def test_unsplit_edges_into_heads_are_divided_over_q_k_and_v_and_impossible_ones_refused(tmp_path):
    edges = graph(tmp_path, replace(circuit(), edges=(_edge("a0.h0", "a1.h0", None, 0.3),)))["edges"]
    assert [edges[f"a0.h0->a1.h0<{into}>"]["score"] for into in "qkv"] == pytest.approx([0.1] * 3)
    backwards = replace(circuit(), edges=(_edge("a1.h0", "a0.h0", "q", 1.0),))
    with pytest.raises(InputError, match="a1.h0->a0.h0"):
        write_graph(backwards, tmp_path / "backwards.json", d_model=16)
    assert not (tmp_path / "backwards.json").exists()


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
