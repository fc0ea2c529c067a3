"""Attribution patching against what it estimates, and against transformer-lens' own tool."""

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.models import load_model
from interp.planted.models import planted_truth
from interp.scores.attribution import attribution
from interp.scores.patching import patching
from tests.oracles import at, heads_of, planted
from tests.pairs import random_pairs


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite"])
def test_scores_are_the_slope_of_interpolating_towards_the_corrupt_output(family, tiny_model):
    model, pairs, step = tiny_model(family), random_pairs(60, n=3), 1e-2
    scores, batch = attribution(model, pairs), run_batch(model, pairs, (0, 1, 2))
    for site in heads_of(model):
        change = batch.corrupt.z[site.layer] - batch.clean.z[site.layer]
        change[:, :, [head for head in range(model.cfg.n_heads) if head != site.head]] = 0
        with torch.no_grad():
            ahead, behind = (
                task_metric(
                    end_logits(model, batch.clean.tokens, {site.hook: lambda z, d=d * change: z + d}),
                    pairs,
                    "logit_diff",
                )
                for d in (step, -step)
            )
        slopes = scores.heads_per_pair[:, site.layer, site.head]
        slope = (behind - ahead) / (2 * step)
        np.testing.assert_allclose(slopes, slope, rtol=0.05, atol=0.02 * abs(scores.heads).max())


def test_heads_equal_the_attribution_tool_of_transformer_lens_with_the_sides_exchanged(tiny_model_folder):
    """That tool takes its gradient at the corrupt prompt; called with the sides exchanged it is ours, negated."""
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    model, pairs = load_model(str(tiny_model_folder("gpt2"))), random_pairs(60, n=1)
    model.requires_grad_(True)  # their graph begins at the parameters
    theirs = analysis.attribution_patch(
        model,
        torch.tensor([pairs[0].corrupt_tokens]),
        torch.tensor([pairs[0].clean_tokens]),
        lambda logits: task_metric(logits[:, -1], pairs, "logit_diff").sum(),
        analysis.EdgeAttributionConfig(granularity="node"),
    )
    totals = np.zeros((model.cfg.n_layers, model.cfg.n_heads))
    for node, value in theirs.node_scores.items():
        if getattr(node, "head", None) is not None:
            totals[node.layer, node.head] += float(value)
    np.testing.assert_allclose(totals, -attribution(model, pairs).heads, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_heads_that_act_only_through_others_do_not_vanish_and_direct_writers_are_exact(name):
    """Cutting the graph at every layer would leave only heads that write to the logits themselves."""
    (model, pairs), truth = planted(name, 16), planted_truth(name)
    scores, exact = attribution(model, pairs), patching(model, pairs)
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    assert all(scores.heads[at(site)] > 0.05 * gap for site in set(truth.heads) - set(truth.outputs))
    for site in truth.outputs if name == "planted-induction" else ():  # where they read nobody's query
        estimated, measured = (s.heads_per_pair[:, *at(site)] for s in (scores, exact))
        np.testing.assert_allclose(estimated, measured, rtol=1e-3, atol=1e-3)
