"""Attribution patching against what it estimates, and against transformer-lens' own tool."""

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits, run_batch
from interp.models import load_model
from interp.planted.models import load_planted_model, planted_truth
from interp.scores.attribution import attribution
from interp.scores.patching import patching
from interp.tasks import load_task
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite"])
def test_scores_are_the_slope_of_interpolating_towards_the_corrupt_output(family, tiny_model):
    model = tiny_model(family)
    pairs = random_pairs(60, n=3)
    scores = attribution(model, pairs)
    batch = run_batch(model, pairs, (0, 1, 2))
    step = 1e-2
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):

            def interpolate(z, layer=layer, head=head, sign=1):
                moved = z.clone()
                moved[:, :, head] += sign * step * (batch.corrupt.z[layer] - batch.clean.z[layer])[:, :, head]
                return moved

            values = []
            for sign in (1, -1):
                hooks = {f"blocks.{layer}.attn.hook_z": lambda z, sign=sign, f=interpolate: f(z, sign=sign)}
                with torch.no_grad():
                    values.append(
                        task_metric(end_logits(model, batch.clean.tokens, hooks), pairs, "logit_diff")
                    )
            slope = -(values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(
                scores.heads_per_pair[:, layer, head],
                slope.numpy(),
                rtol=0.05,
                atol=0.02 * abs(scores.heads).max(),
            )


def test_heads_equal_the_attribution_tool_of_transformer_lens_with_the_sides_exchanged(tiny_model_folder):
    """That tool takes its gradient at the corrupt prompt; called with the sides exchanged it is ours, negated."""
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    model = load_model(str(tiny_model_folder("gpt2")))
    model.requires_grad_(True)  # their graph begins at the parameters
    pairs = random_pairs(60, n=1)
    tokens = {side: torch.tensor([getattr(pairs[0], f"{side}_tokens")]) for side in ("clean", "corrupt")}
    theirs = analysis.attribution_patch(
        model,
        tokens["corrupt"],
        tokens["clean"],
        lambda logits: task_metric(logits[:, -1], pairs, "logit_diff").sum(),
        analysis.EdgeAttributionConfig(granularity="node"),
    )
    ours = attribution(model, pairs)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            total = sum(v for k, v in theirs.node_scores.items() if _is_head(k, layer, head))
            assert float(total) == pytest.approx(-ours.heads[layer, head], rel=1e-3, abs=1e-4)


def _is_head(key, layer, head):
    return getattr(key, "layer", None) == layer and getattr(key, "head", None) == head


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition"])
def test_heads_that_act_only_through_others_do_not_vanish(name):
    """Cutting the graph at every layer would leave only heads that write to the logits themselves."""
    model, truth = load_planted_model(name), planted_truth(name)
    pairs = load_task(name).sample(model.tokenizer, 16, 0)
    scores = attribution(model, pairs)
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    for site in set(truth.heads) - set(truth.outputs):
        layer, head = (int(part[1:]) for part in site.split("."))
        assert scores.heads[layer, head] > 0.05 * gap


@pytest.mark.parametrize("family", FAMILIES)
def test_per_pair_scores_do_not_depend_on_the_batch(family, tiny_model):
    model = tiny_model(family)
    pairs = random_pairs(60, n=4)
    together = attribution(model, pairs)
    alone = attribution(model, pairs.subset([2]))
    scale = abs(together.heads_per_pair).max()
    np.testing.assert_allclose(
        alone.heads_per_pair[0], together.heads_per_pair[2], atol=1e-4 * scale, rtol=1e-3
    )
    assert together.mlps.shape == (model.cfg.n_layers,)


def test_direct_writers_of_a_linear_model_are_scored_exactly():
    model = load_planted_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, 8, 0)
    approximate, exact = attribution(model, pairs), patching(model, pairs)
    for site in planted_truth("planted-induction").outputs:
        layer, head = (int(part[1:]) for part in site.split("."))
        np.testing.assert_allclose(
            approximate.heads_per_pair[:, layer, head],
            exact.heads_per_pair[:, layer, head],
            rtol=1e-3,
            atol=1e-3,
        )
