"""Edges of the codes finder: planted ones come out with direction and input, and what is measured is exact."""

import numpy as np
import pytest

from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.interventions.edges import EdgeList, EdgePatcher
from interp.models import Site
from interp.planted.models import planted_truth
from interp.scores.adaptive_patching.edges import (
    PatchedEdgesConfig,
    co_occurrence,
    conditional_information,
    edge_products_among,
    edges_by_patching,
    halfway_products,
    partial_products,
    patched_edges,
    written_among,
)
from interp.scores.adaptive_patching.method import adaptive_patching
from interp.scores.adaptive_patching.role_codes import RoleCodes, RoleOutputs
from interp.scores.eap import edge_runs, edge_scores
from interp.scores.eap_ig import eap_ig, input_path
from interp.scores.method import Context
from tests.oracles import heads_of, planted
from tests.pairs import random_pairs
from tests.scores.exact_edges import ExactEdges


def _named(edges, n: int | None = None) -> list:
    return [(edge.sender, edge.receiver, edge.into) for edge in edges[:n]]


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition", "planted-backup", "planted-or"])
def test_the_written_edges_come_first(name):
    """An OR-gate's included, none of which has an effect of its own; so ROC AUC is 1, and EAP-IG's cannot be more."""
    written = set(planted_truth(name).edges)
    assert set(_named(patched_edges(*planted(name, 10)).edges, len(written))) == written


def test_a_gate_of_gates_is_seen_better_than_by_integrated_gradients_at_less_cost():
    model, pairs = planted("planted-hydra", 5)
    written = set(planted_truth("planted-hydra").edges)
    scores, baseline = patched_edges(model, pairs), eap_ig(model, pairs)
    baseline_edges = [edge for edge in _named(baseline.edges) if edge[0][0] == edge[1][0] == "a"][: len(written)]
    assert len(written & {*_named(scores.edges, len(written))}) >= len(written & {*baseline_edges})
    assert scores.cost.forwards <= baseline.cost.forwards


@pytest.mark.parametrize("family", ["llama", "pythia", "gpt2"])
def test_one_removed_edge_is_path_patching_the_long_way(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=3, lengths=(8, 11))
    patched = EdgePatcher(CleanRun.of(model, pairs, batch_size=2))
    edges = EdgeList.among([Site("attn", 0, 1), Site("attn", 1, 0), Site("attn", 1, 2)])
    index, rows = (part.ravel() for part in np.meshgrid(range(len(edges)), range(3), indexing="ij"))
    effects = patched.effects(rows, edges.subset(index))[0].reshape(len(edges), 3)
    exact = [ExactEdges(model, pairs.subset([i])) for i in range(3)]
    for k in range(len(edges)):
        ends = str(edges.sites[edges.sender[k]]), str(edges.sites[edges.receiver[k]]), str(edges.into[k])
        assert np.allclose(effects[k], [run.effect(*ends).item() for run in exact], atol=1e-4), ends
    assert np.abs(effects).max() > 1e-2


def test_an_edge_measured_on_every_pair_is_its_exact_effect():
    model, pairs = planted("planted-inhibition", 3)
    scores = patched_edges(model, pairs, config=PatchedEdgesConfig(budget=1000.0))
    whole = [k for k, evidence in enumerate(scores.evidence) if evidence.measured == len(pairs)]
    assert len(whole) >= len(planted_truth("planted-inhibition").edges)
    exact = ExactEdges(model, pairs)
    for k in whole[:6]:
        effect = exact.effect(*_named(scores.edges[k : k + 1])[0]).mean().item()
        assert scores.evidence[k].effect == pytest.approx(effect, abs=1e-3)


def test_proposals_are_edge_attribution_at_the_clean_prompt_and_on_the_path():
    model, pairs = planted("planted-backup", 4)
    edges = EdgeList.among(heads_of(model))
    (run,) = edge_runs(Context(model, pairs))
    clean = edge_products_among(run.at_clean(), edges, [written_among(run, edges)])[0]
    path = (clean + halfway_products(run, edges)) / 2
    partial = partial_products(run, edges, share=1.0)
    assert np.allclose(partial, clean, atol=1e-3), "with all heads wholly on it is the clean run"
    matrix = edge_scores(Context(model, pairs), lambda run: input_path(run, 2))
    expected = {(e.sender, e.receiver, e.into): e.score for e in matrix.graph.edges(matrix.matrix)}
    names = [str(site) for site in edges.sites]
    ends = zip(edges.sender, edges.receiver, edges.into, strict=True)
    wanted = [expected[names[u], names[v], str(into)] for u, v, into in ends]
    assert np.allclose(path.mean(0), wanted, atol=1e-3)


def test_evidence_names_what_codes_carry():
    model, pairs = planted("planted-inhibition", 20)
    outputs = RoleOutputs(pairs)
    scores = adaptive_patching(model, pairs, consumers=[outputs])
    vectors = {str(s): outputs.z_[..., s.layer, s.head, :].flatten(0, 2) for s in heads_of(model)}
    books = {
        site: Codebook(CodebookConfig(z.shape[-1], 64, selection="matching_pursuit")).fit(z)
        for site, z in vectors.items()
    }
    counts: list[int] = []
    patched = edges_by_patching(
        model, pairs, scores, sites=heads_of(model), progress=counts.append, codes=RoleCodes(outputs, books)
    )
    assert sum(counts) == 100
    best, evidence = patched.edges[0], patched.evidence[0]
    assert (best.sender, best.receiver, best.into) in planted_truth("planted-inhibition").edges
    assert evidence.codes == pytest.approx(evidence.attribution, rel=0.3), "the sender's codes carry the edge"
    assert evidence.measured > 0 and evidence.probability > 0.9
    assert 0 < patched.cost.forwards <= 20 * 6, "a third of the pairs"


def test_information_is_that_of_the_label_left_out():
    """Two heads that only tell clean from corrupt say nothing of each other; two with a coin in common, one bit."""
    coin, other = np.random.default_rng(0).integers(2, size=(2, 2, 200))
    side = np.broadcast_to(np.arange(2)[:, None], (2, 200))
    ids = np.stack([coin, coin, other, side, side], axis=-1)[:, :, None]
    bits = conditional_information(ids)[:, 0, :, 0]
    assert bits[0, 1] == pytest.approx(1.0, abs=0.02)
    assert bits[0, 2] < 0.02
    assert bits[3, 4] == 0


TWO_HEADS = EdgeList.among([Site("attn", 0, 0), Site("attn", 1, 0)])


def bits(ids: np.ndarray) -> dict[str, float]:
    """By the input of the later head; ids are [side, pair, slot, head, 1]."""
    shared = co_occurrence(TWO_HEADS, ids[..., 0])
    return {str(into): float(bit) for into, bit in zip(TWO_HEADS.into, shared, strict=True)}


def coins(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, size=(2, n, 2, 2, 1))


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        (0, 0, {"q": 1, "k": 1, "v": 1}),
        (1, 1, {"q": 1, "k": 1, "v": 1}),
        (0, 1, {"q": 0, "k": 1, "v": 1}),  # keys and values are read where they stand, before END
        (1, 0, {"q": 0, "k": 0, "v": 0}),  # what is written later cannot be read
    ],
)
def test_a_copied_coin_is_one_bit_where_it_can_be_read(sender, receiver, expected):
    ids = coins(200)
    ids[:, :, receiver, 1] = ids[:, :, sender, 0]
    assert {into: round(bit) for into, bit in bits(ids).items()} == expected


def test_few_prompts_of_independent_codes_tell_next_to_nothing():
    mean_bits = np.mean([list(bits(coins(20, seed)).values()) for seed in range(50)])
    assert mean_bits < 0.07, "what chance brings to so few prompts is taken off"


def test_unknown_attention_is_not_measured(tiny_model):
    scores = patched_edges(tiny_model("gemma2"), random_pairs(60, n=3))
    assert scores.edges
    assert all(evidence.measured == 0 for evidence in scores.evidence)


def test_bad_input():
    model, pairs = planted("planted-inhibition", 3)
    with pytest.raises(InputError, match="at least 2"):
        patched_edges(model, pairs.subset([0]))
    with pytest.raises(InputError, match="m1: edges are measured between heads only"):
        patched_edges(model, pairs, sites=[Site("attn", 0, 0), Site("mlp", 1)])
    assert patched_edges(model, pairs, sites=[Site("attn", 0, 0)]).edges == ()
