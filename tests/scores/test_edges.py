"""Edge attribution: planted edges come out, and query heads that share keys are kept apart."""

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.models import Site, parse_site
from interp.planted.models import load_planted_model, planted_truth
from interp.scores.eap import attributed_edges
from interp.tasks import load_task
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_the_planted_edges_are_the_strongest(name):
    model, truth = load_planted_model(name), planted_truth(name)
    pairs = load_task(name).sample(model.tokenizer, 12, 0)
    sites = [Site("attn", layer, h) for layer in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)]
    done: list[int] = []
    found = attributed_edges(model, pairs, sites=sites, batch_size=5, progress=done.append).edges
    assert sum(done) == 100 and len(done) > 1
    strong = {(e.sender, e.receiver, e.into) for e in found if abs(e.score) > 0.02 * abs(found[0].score)}
    assert strong == set(truth.edges)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edge_is_the_slope_of_moving_the_sender_at_that_input_alone(family, tiny_model):
    """A small step of the sender's difference added to the receiver's own query, key or value input only."""
    model = tiny_model(family)
    pairs = random_pairs(60, n=2)
    # Gemma has a norm between heads and the residual stream: see test_eap
    senders = [Site("mlp", 0)] if family.startswith("gemma") else [Site("attn", 0, 1), Site("mlp", 0)]
    receiver = Site("attn", 1, 2)
    found = {
        (e.sender, e.into): e.score for e in attributed_edges(model, pairs, sites=[*senders, receiver]).edges
    }
    batch = run_batch(model, pairs, (0, 1))
    tokens = batch.clean.tokens
    step = 1e-2
    for sender in senders:
        if sender.kind == "mlp":
            moved = batch.clean.mlp[0] - batch.corrupt.mlp[0]
        else:
            moved = (batch.clean.z[0] - batch.corrupt.z[0])[:, :, 1] @ model.blocks[0].attn.W_O[1]
        for into in "qkv":
            values = []
            for sign in (1, -1):
                values.append(_receiver_z(model, tokens, sign * step * moved, into))
            hooks = [
                {
                    "blocks.1.attn.hook_z": lambda z, v=v: torch.cat(
                        [z[:, :, :2], v[:, :, 2:3], z[:, :, 3:]], 2
                    )
                }
                for v in values
            ]
            with torch.no_grad():
                high, low = (task_metric(end_logits(model, tokens, h), pairs, "logit_diff") for h in hooks)
            slope = ((high - low) / (2 * step)).mean().item()
            scale = max(abs(score) for score in found.values())
            assert found[str(sender), into] == pytest.approx(slope, rel=0.05, abs=0.02 * scale)


def _receiver_z(model, tokens, added, into):
    """z of the receiver's layer when ``added`` joins the residual stream read by one of q, k, v only."""
    from interp.models import hooked

    kept = {}
    hooks = {
        "blocks.1.hook_resid_pre": lambda r: r + added,
        f"blocks.1.attn.hook_{into}": lambda x: kept.__setitem__("x", x.clone()),
    }
    with torch.no_grad(), hooked(model, hooks):
        model(tokens)
    hooks = {
        f"blocks.1.attn.hook_{into}": lambda _: kept["x"],
        "blocks.1.attn.hook_z": lambda z: kept.__setitem__("z", z.clone()),
    }
    with torch.no_grad(), hooked(model, hooks):
        model(tokens)
    return kept["z"]


def test_edges_point_forward_and_reach_the_mlp_of_the_same_layer_only_in_sequential_blocks(tiny_model):
    sites = [Site("attn", 0, 0), Site("mlp", 0), Site("attn", 1, 0), Site("mlp", 1)]
    for family, expected in (("llama", True), ("pythia", False)):
        edges = attributed_edges(tiny_model(family), random_pairs(60, n=2), sites=sites).edges
        pairs = {(e.sender, e.receiver) for e in edges}
        assert ("a1.h0", "a0.h0") not in pairs
        assert (("a0.h0", "m0") in pairs) is expected
        for edge in edges:
            assert (edge.into is None) == (parse_site(edge.receiver).kind == "mlp")
        assert np.all(np.diff([-abs(e.score) for e in edges]) >= 0)
