"""Contextual decomposition: every rule adds up, and the whole equals a literal transcription with two streams."""

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from interp.activations.stream import feed, run_batch
from interp.interventions.effects import activation_patching
from interp.models import Site, hooked
from interp.models.partial_forward import Blockwise
from interp.scores.baselines.contextual_decomposition import Decomposition, contextual_decomposition
from tests.oracles import assert_written_heads_first, planted
from tests.pairs import random_pairs

RULES = ("frozen", "paper", "shared")


@pytest.mark.parametrize("attention", RULES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "pythia", "qwen2", "phi"])
def test_parts_equal_a_literal_transcription_with_two_streams(family, attention, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=2)
    decomposition = Decomposition(model, pairs.metric, 2, attention)
    seen = {}
    decomposition.seen = lambda layer, part, whole: seen.__setitem__(layer, (part.clone(), whole))
    feed(model, pairs, [decomposition])
    batch = run_batch(model, pairs, (0, 1))
    first = 9 - seen[0][0].shape[2]  # positions before the first difference are skipped
    for layer, head in ((0, 1), (1, 2)):
        for number, (part, rest, actual) in enumerate(_two_streams(model, batch, layer, head, attention)):
            torch.testing.assert_close(part + rest, actual, atol=1e-4, rtol=1e-4)
            parts, whole = seen[number]
            source = layer * model.cfg.n_heads + head
            if number >= layer:
                torch.testing.assert_close(parts[source], part[:, first:], atol=1e-4, rtol=1e-3)
            assert part[:, :first].abs().max() < 1e-6
            torch.testing.assert_close(whole, actual[:, first:], atol=1e-4, rtol=1e-4)


def _two_streams(model, batch, source_layer, source_head, attention):
    """Yield (β, γ, the model's own residual stream) after each layer: both streams, by the formulas as written."""
    kept = {}
    names = ["hook_resid_pre", "ln1.hook_out", "hook_resid_post"]
    hooks = {
        f"blocks.{layer}.{name}": lambda x, key=(layer, name): kept.__setitem__(key, x.clone())
        for layer in range(2)
        for name in names
    }
    with torch.no_grad(), hooked(model, hooks):
        model(batch.clean.tokens)
    n = batch.clean.tokens.shape[1]
    blocks = Blockwise(model, n, "the test")
    rest = kept[0, "hook_resid_pre"]
    part = torch.zeros_like(rest)
    mask = torch.full((n, n), float("-inf")).triu(1)
    group = model.cfg.n_heads // blocks.weight(0, "k")[0].shape[0]

    def biased(b, g, bias):
        if bias is None:
            return b, g
        total = (b.abs() + g.abs()).clamp_min(1e-30)
        return b + bias * b.abs() / total, g + bias * g.abs() / total

    def normed(module, b, g):
        centre = isinstance(module._original_component, torch.nn.LayerNorm)
        x = b + g
        mean = x.mean(-1, keepdim=True) if centre else 0.0
        eps = getattr(module._original_component, "eps", None) or module._original_component.variance_epsilon
        scale = ((x - mean).pow(2).mean(-1, keepdim=True) + eps).sqrt()
        b, g = ((y - (y.mean(-1, keepdim=True) if centre else 0)) / scale * module.weight for y in (b, g))
        return biased(b, g, module.bias if centre else None)

    def linear(module, b, g):
        bias = module.bias
        return biased(*((module(y) - (0 if bias is None else bias)) for y in (b, g)), bias)

    for layer in range(2):
        block = model.blocks[layer]
        b_in, g_in = normed(block.ln1, part, rest)
        torch.testing.assert_close(b_in + g_in, kept[layer, "ln1.hook_out"], atol=1e-4, rtol=1e-4)
        zs = []
        for head in range(model.cfg.n_heads):
            pieces = []
            for into in "qkv":
                weight, bias = blocks.weight(layer, into)
                column = head if into == "q" else head // group
                bias = None if bias is None else bias[column]
                b, g = biased(b_in @ weight[column], g_in @ weight[column], bias)
                if into != "v":
                    b, g = (blocks.rotate(y[:, :, None])[:, :, 0] for y in (b, g))
                pieces.append((b, g))
            (bq, gq), (bk, gk), (bv, gv) = pieces

            def dot(x, y):
                return x @ y.transpose(1, 2) / x.shape[-1] ** 0.5

            full = (dot(bq + gq, bk + gk) + mask).softmax(-1)
            if attention == "frozen":
                bz = full @ bv
            elif attention == "paper":
                bz = (dot(bq, bk) + mask).softmax(-1) @ bv
            else:
                bs = dot(bq, bk) + (dot(bq, gk) + dot(gq, bk)) / 2
                gs = dot(bq + gq, bk + gk) - bs
                bp = (full - (gs + mask).softmax(-1) + (bs + mask).softmax(-1) - mask.softmax(-1)) / 2
                bz = bp @ bv + (bp @ gv + (full - bp) @ bv) / 2
            gz = full @ (bv + gv) - bz
            if (layer, head) == (source_layer, source_head):
                gz = batch.corrupt.z[layer][:, :, head]
                bz = batch.clean.z[layer][:, :, head] - gz
            zs.append((bz, gz))
        weight = block.attn.W_O
        written = [sum(z[i] @ weight[h] for h, z in enumerate(zs)) for i in (0, 1)]
        b_attn, g_attn = biased(*written, block.attn.b_O)
        sequential = "blocks.0.hook_resid_mid" in model.hook_dict
        read = (part + b_attn, rest + g_attn) if sequential else (part, rest)
        b_mlp, g_mlp = normed(block.ln2 if "blocks.0.ln2.hook_in" in model.hook_dict else block.ln1, *read)
        b, g = linear(getattr(block.mlp, "in"), b_mlp, g_mlp)
        act = ACT2FN[model.cfg.act_fn]
        if hasattr(block.mlp, "gate"):
            b_gate, g_gate = linear(block.mlp.gate, b_mlp, g_mlp)
            b_open, g_open = act(b_gate + g_gate) - act(g_gate), act(g_gate)
            b, g = (b_open * b + (b_open * g + g_open * b) / 2, g_open * g + (b_open * g + g_open * b) / 2)
        else:
            b, g = act(b + g) - act(g), act(g)
        b_out, g_out = linear(block.mlp.out, b, g)
        part, rest = part + b_attn + b_out, rest + g_attn + g_out
        yield part, rest, kept[layer, "hook_resid_post"]


@pytest.mark.parametrize("name", ["planted-induction", "planted-inhibition", "planted-backup"])
def test_planted_circuits_are_found_through_queries_and_keys(name):
    (model, pairs), events = planted(name, 6), []
    scores = contextual_decomposition(model, pairs, progress=events.append)
    assert_written_heads_first(scores, name)
    assert sum(events) == 100
    layer, head = len(scores.heads) - 1, 2 if name == "planted-backup" else 5
    if name != "planted-induction":
        # in the last layer, without a norm, what a head adds is what patching it takes away
        exact = activation_patching(model, pairs, [Site("attn", layer, head)]).effects[:, 0]
        np.testing.assert_allclose(scores.heads_per_pair[:, layer, head], exact, atol=1e-4)
