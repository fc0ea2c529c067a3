"""Edge attribution against exact edges, finite differences and transformer-lens' path patching."""

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import get_act_patch_direct_path

from interp.errors import InputError
from interp.models import hooked, parse_site
from interp.planted.models import load_planted_model, planted_truth
from interp.scores.attribution import attribution
from interp.scores.eap import EAPConfig, at_clean, attributed_edges, eap, edge_runs, edge_scores, fold_edges
from interp.scores.method import Context
from interp.scores.registry import method_config
from interp.tasks import load_task
from tests.pairs import random_pairs
from tests.scores.exact_edges import exact_edge, slope_of_edge
from tests.tiny_models import FAMILIES

POST_NORM = ("gemma2", "gemma3")
"""Families with a norm between a head and the residual stream."""


def all_edges(model, pairs):
    found = edge_scores(Context(model, pairs), at_clean)
    return found.graph.edges(found.matrix)


@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_edges_are_the_slope_of_a_small_step_in_one_input(family, tiny_model):
    """Keys and values that query heads share are kept apart (grouped queries: llama, qwen2, gemma)."""
    model, pairs = tiny_model(family), random_pairs(60, n=2)
    edges = all_edges(model, pairs)
    if family in POST_NORM:
        edges = [e for e in edges if not e.sender.startswith("a")]
    some = edges[::4]  # of every size
    slopes = [slope_of_edge(model, pairs, e.sender, e.receiver, e.into).mean().item() for e in some]
    np.testing.assert_allclose([e.score for e in some], slopes, rtol=0.02, atol=2e-3 * abs(edges[0].score))


@pytest.mark.parametrize("family", POST_NORM)
def test_shares_of_a_norm_after_attention_add_up_to_what_attention_writes(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=2)
    sums = {}
    names = [f"blocks.{layer}.hook_attn_out" for layer in range(model.cfg.n_layers)]
    keep = {n: lambda x, n=n: sums.setdefault(n, []).append(x.detach().clone()) for n in names}
    with hooked(model, keep):
        (run,) = edge_runs(Context(model, pairs))
    graph, shares = run.graph, run.written
    for layer, name in enumerate(names):
        heads = shares[:, graph.head_sender(layer, 0) : graph.mlp_sender(layer)].sum(1)
        corrupt, clean = (x for x in sums[name] if len(x) == 2)  # others measure the model
        torch.testing.assert_close(heads, clean - corrupt, rtol=1e-4, atol=1e-4)


def test_edges_of_attention_that_reads_no_norm_are_refused(tiny_model):
    """OLMo 2: its heads are scored, its edges are not."""
    model, pairs = tiny_model("olmo2"), random_pairs(60, n=2)
    assert attribution(model, pairs).heads.any()
    with pytest.raises(InputError, match="edges cannot be attributed.*Olmo2ForCausalLM"):
        eap(model, pairs)


def test_edges_agree_with_exact_ones_the_better_the_smaller_the_step(tiny_model):
    model, pairs = tiny_model("gpt2"), random_pairs(60, n=2)
    edges = all_edges(model, pairs)[::5]
    agreement = []
    for share in (1.0, 0.2):
        exact = [exact_edge(model, pairs, e.sender, e.receiver, e.into, share).mean().item() for e in edges]
        agreement.append(np.corrcoef([e.score for e in edges], exact)[0, 1])
    assert agreement[0] > 0.8
    assert agreement[1] > 0.99


def test_edges_into_linear_inputs_are_exact_and_path_patching_says_so_too():
    """Values and logits are linear in the planted models; both ways of patching one edge are independent of EAP."""
    model, truth = load_planted_model("planted-inhibition"), planted_truth("planted-inhibition")
    pairs = load_task("planted-inhibition").sample(model.tokenizer, 1, 0)
    scores = {(e.sender, e.receiver, e.into): e.score for e in all_edges(model, pairs)}
    for site in truth.outputs:
        exact = exact_edge(model, pairs, site, "logits", None).item()
        assert scores[site, "logits", None] == pytest.approx(exact, rel=1e-3)
        exact = exact_edge(model, pairs, "input", site, "v").item()
        assert scores["input", site, "v"] == pytest.approx(exact, rel=1e-3)
    for sender, receiver, into in truth.edges:
        ours = exact_edge(model, pairs, sender, receiver, into).item()
        assert _path_patched(model, pairs, sender, receiver, into) == pytest.approx(ours, rel=1e-3, abs=1e-3)
        # saturated attention: the right sign, and too small
        if into != "v":
            assert 0 <= scores[sender, receiver, into] <= ours + 1e-3


def _path_patched(model, pairs, sender, receiver, into):
    """transformer-lens' patch of one head into another's input, the sides exchanged (there is no norm to divide by)."""
    tokens = {side: torch.tensor([getattr(pairs[0], f"{side}_tokens")]) for side in ("clean", "corrupt")}
    layers = range(model.cfg.n_layers)
    names = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    scales = {f"blocks.{layer}.ln1.hook_scale": torch.ones(1) for layer in layers}
    caches = {}
    for side, ids in tokens.items():
        _, cache = model.run_with_cache(ids)
        caches[side] = {name: cache[name] for name in names} | scales

    def metric(logits):
        pair = pairs[0]
        return (logits[0, -1, list(pair.answers)] - logits[0, -1, list(pair.wrong_answers)]).sum()

    (layer, head), (to_layer, to_head) = (
        tuple(int(part[1:]) for part in site.split(".")) for site in (sender, receiver)
    )
    with torch.no_grad():
        patched = get_act_patch_direct_path(
            model, tokens["clean"], caches["corrupt"], caches["clean"], metric, layer, head, into, False
        )
        return (metric(model(tokens["clean"])) - patched[to_layer, to_head]).item()


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_the_planted_edges_are_the_strongest_among_heads(name):
    model, truth = load_planted_model(name), planted_truth(name)
    pairs = load_task(name).sample(model.tokenizer, 8, 0)
    edges = [e for e in eap(model, pairs).edges if e.sender != "input" and e.receiver != "logits"]
    best = {(e.sender, e.receiver, e.into) for e in edges[: len(truth.edges)]}
    assert best == set(truth.edges)


@pytest.mark.parametrize("family", [*(f for f in FAMILIES if f not in POST_NORM), "granite"])
def test_edges_out_of_a_node_add_up_to_its_attribution(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=3, lengths=(8, 9))
    nodes, edges = attribution(model, pairs), eap(model, pairs, EAPConfig(fold="out", batch_size=2))
    np.testing.assert_allclose(edges.heads_per_pair, nodes.heads_per_pair, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(edges.mlps_per_pair, nodes.mlps_per_pair, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(edges.heads, edges.heads_per_pair.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(edges.metric_clean, nodes.metric_clean)
    assert edges.signed


def test_edges_among_members_are_those_of_all_edges(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=3)
    names = ("a0.h1", "m0", "a1.h2", "m1")
    members = attributed_edges(model, pairs, sites=[parse_site(name) for name in names]).edges
    assert list(members) == [e for e in all_edges(model, pairs) if {e.sender, e.receiver} <= set(names)]


def test_the_largest_edge_of_a_node_is_its_score(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=2)
    scores = eap(model, pairs, EAPConfig(edges=10_000))
    assert not scores.signed
    assert scores.heads_per_pair is None
    largest = {}
    for edge in scores.edges:
        for end in (edge.sender, edge.receiver):
            largest[end] = max(largest.get(end, 0.0), abs(edge.score))
    for layer in range(model.cfg.n_layers):
        assert scores.mlps[layer] == pytest.approx(largest[f"m{layer}"])
        for head in range(model.cfg.n_heads):
            assert scores.heads[layer, head] == pytest.approx(largest[f"a{layer}.h{head}"])


def test_any_pairs_can_be_folded_again_from_the_matrices_of_all(tiny_model):
    model, pairs = tiny_model("gpt2"), random_pairs(60, n=4, lengths=(8, 9))
    found = edge_scores(Context(model, pairs), at_clean, per_pair=True)
    np.testing.assert_allclose(found.per_pair.mean(0), found.matrix, atol=1e-6)
    some = fold_edges(found.graph, found.per_pair[[3, 0]].mean(0), "max")
    alone = eap(model, pairs.subset([3, 0]))
    np.testing.assert_allclose(some[0], alone.heads, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(some[1], alone.mlps, rtol=1e-3, atol=1e-6)


def test_edges_are_sorted_and_point_forward(tiny_model):
    for family, expected in (("llama", True), ("pythia", False)):
        edges = eap(tiny_model(family), random_pairs(60, n=2), EAPConfig(edges=1000)).edges
        ends = {(e.sender, e.receiver) for e in edges}
        assert ("a1.h0", "a0.h0") not in ends
        assert ("m0", "m0") not in ends
        assert (("a0.h0", "m0") in ends) is expected
        assert all((e.into is None) == (not e.receiver.startswith("a")) for e in edges)
        assert np.all(np.diff([-abs(e.score) for e in edges]) >= 0)
    assert len(eap(tiny_model("llama"), random_pairs(60, n=2), EAPConfig(edges=7)).edges) == 7


@pytest.mark.parametrize(("options", "message"), [({"fold": "sum"}, "'sum'"), ({"edges": "0"}, "edges 0")])
def test_bad_options_name_the_value(options, message):
    with pytest.raises(InputError, match=message):
        method_config("eap", "ioi", options)
