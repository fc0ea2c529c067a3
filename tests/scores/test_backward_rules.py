"""RelP and GIM against their rules written out in plain torch, in a forward of its own for each family."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from interp.errors import InputError
from interp.planted.models import planted_truth
from interp.scores.attribution import attribution
from interp.scores.baselines.backward_rules import halved_gates, shared_mlps
from interp.scores.baselines.gim import EAPGIMConfig, GIMConfig, eap_gim, gim
from interp.scores.baselines.relp import EAPRelPConfig, RelPConfig, eap_relp, relp
from tests.oracles import at, planted
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES, OTHERS

WRITTEN_OUT = ("gpt2", "llama", "gemma3")
"""LayerNorm and GELU; RMSNorm, SwiGLU and grouped queries; norms after layers and of queries and keys, GEGLU."""
EVERY = 10**6


class Softened(torch.autograd.Function):
    """A softmax with the derivative of temperature 2, as the paper has it."""

    @staticmethod
    def forward(ctx, scores):
        ctx.save_for_backward(scores)
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx, gradient):
        p = (ctx.saved_tensors[0] / 2).softmax(-1)
        return p * (gradient - (p * gradient).sum(-1, keepdim=True))


@dataclass
class Rules:
    """What differs from the gradient."""

    frozen: bool = False
    identity: bool = False
    half_gate: bool = False
    half_attention: bool = False
    softened: bool = False
    constant_pattern: bool = False

    def product(self, half, multiply, a, b):
        return 0.5 * (multiply(a, b.detach()) + multiply(a.detach(), b)) if half else multiply(a, b)

    def scale(self, x, eps):
        scale = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return scale.detach() if self.frozen else scale

    def activation(self, function, x):
        return x * (function(x) / x).detach() if self.identity else function(x)


RULES = {
    "gradient": Rules(),
    "relp": Rules(frozen=True, identity=True, half_gate=True),
    "relp-detached": Rules(frozen=True, identity=True, half_gate=True, constant_pattern=True),
    "gim": Rules(frozen=True, half_gate=True, half_attention=True, softened=True),
    "gim-package": Rules(frozen=True, half_attention=True, softened=True),
}
NODES = {
    "gradient": attribution,
    "relp": relp,
    "relp-detached": lambda *case: relp(*case, RelPConfig(attention="detached")),
    "gim": gim,
    "gim-package": lambda *case: gim(*case, GIMConfig(gates=False)),
}
EDGES = {
    "relp": lambda *case: eap_relp(*case, EAPRelPConfig(edges=EVERY)),
    "relp-detached": lambda *case: eap_relp(*case, EAPRelPConfig(edges=EVERY, attention="detached")),
    "gim": lambda *case: eap_gim(*case, EAPGIMConfig(edges=EVERY)),
}


class WrittenOut:
    """A forward in plain torch, from the weights; a receiver may read the residual stream with something added."""

    def __init__(self, folder, rules: Rules) -> None:
        self.hf = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
        self.config, self.rules = self.hf.config, rules
        self.gpt2, self.gemma = (self.config.model_type == name for name in ("gpt2", "gemma3_text"))
        self.n_heads = self.config.num_attention_heads
        body = self.hf.transformer if self.gpt2 else self.hf.model
        self.body, self.blocks = body, body.h if self.gpt2 else body.layers

    def norm(self, module, x):
        if self.gpt2:
            x = x - x.mean(-1, keepdim=True)
            return x / self.rules.scale(x, self.config.layer_norm_epsilon) * module.weight + module.bias
        gain = 1 + module.weight if self.gemma else module.weight
        return x / self.rules.scale(x, self.config.rms_norm_eps) * gain

    def embed(self, tokens):
        if self.gpt2:
            return self.body.wte.weight[tokens] + self.body.wpe.weight[: tokens.shape[1]]
        return self.body.embed_tokens.weight[tokens] * (self.config.hidden_size**0.5 if self.gemma else 1)

    def queries_keys_values(self, block, x):
        """Each [batch, query head, pos, d_head]."""

        def heads(y):
            return y.unflatten(-1, (-1, d_head)).transpose(1, 2)

        if self.gpt2:
            d_head = self.config.n_embd // self.n_heads
            return [heads(y) for y in (x @ block.attn.c_attn.weight + block.attn.c_attn.bias).chunk(3, -1)]
        attn, d_head = block.self_attn, block.self_attn.head_dim
        q, k, v = (heads(x @ linear.weight.T) for linear in (attn.q_proj, attn.k_proj, attn.v_proj))
        if self.gemma:
            q, k = self.norm(attn.q_norm, q), self.norm(attn.k_norm, k)
        q, k = self.turned(q), self.turned(k)
        return [q, *(y.repeat_interleave(self.n_heads // y.shape[1], 1) for y in (k, v))]

    def turned(self, x):
        half = x.shape[-1] // 2
        angles = torch.outer(torch.arange(x.shape[2]), 10000.0 ** (-torch.arange(half) / half))
        low, high = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def attend(self, block, x, added, receiver):
        norm = block.ln_1 if self.gpt2 else block.input_layernorm
        qkv = self.queries_keys_values(block, self.norm(norm, x))
        if receiver is not None:
            head, into = receiver
            with_it = self.queries_keys_values(block, self.norm(norm, x + added))
            at_head = (torch.arange(self.n_heads) == head)[:, None, None]
            qkv["qkv".index(into)] = torch.where(at_head, with_it["qkv".index(into)], qkv["qkv".index(into)])
        q, k, v = qkv
        half = self.rules.half_attention
        scores = self.rules.product(half, torch.matmul, q, k.mT) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
        pattern = Softened.apply(scores) if self.rules.softened else scores.softmax(-1)
        pattern = pattern.detach() if self.rules.constant_pattern else pattern
        return self.rules.product(half, torch.matmul, pattern, v).transpose(1, 2)

    def write(self, block, z):
        flat = z.flatten(2)
        if self.gpt2:
            return flat @ block.attn.c_proj.weight + block.attn.c_proj.bias
        written = flat @ block.self_attn.o_proj.weight.T
        return self.norm(block.post_attention_layernorm, written) if self.gemma else written

    def mlp(self, block, x):
        if self.gpt2:
            x, mlp = self.norm(block.ln_2, x), block.mlp
            pre = x @ mlp.c_fc.weight + mlp.c_fc.bias
            return self.rules.activation(_gelu, pre) @ mlp.c_proj.weight + mlp.c_proj.bias
        mlp = block.mlp
        x = self.norm(block.pre_feedforward_layernorm if self.gemma else block.post_attention_layernorm, x)
        gate = self.rules.activation(_gelu if self.gemma else F.silu, x @ mlp.gate_proj.weight.T)
        neurons = self.rules.product(self.rules.half_gate, torch.mul, gate, x @ mlp.up_proj.weight.T)
        out = neurons @ mlp.down_proj.weight.T
        return self.norm(block.post_feedforward_layernorm, out) if self.gemma else out

    def run(self, tokens: Tensor, added: Tensor | float = 0.0, receiver: tuple | None = None):
        """The embedded prompt, z and MLP output of every layer, and logits after the last token."""
        kind, receiving = ("", -1) if receiver is None else receiver[:2]
        x = embedded = self.embed(tokens).requires_grad_(True)
        zs, mlps = [], []
        for layer, block in enumerate(self.blocks):
            z = self.attend(block, x, added, receiver[2:] if (kind, receiving) == ("attn", layer) else None)
            zs.append(z)
            x = x + self.write(block, z)
            mlps.append(self.mlp(block, x + added if (kind, receiving) == ("mlp", layer) else x))
            x = x + mlps[-1]
        x = x + added if kind == "logits" else x
        x = self.norm(self.body.ln_f if self.gpt2 else self.body.norm, x)
        return embedded, zs, mlps, (x @ self.hf.lm_head.weight.T)[:, -1]


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _metric(logits: Tensor, pairs) -> Tensor:
    """Answer less the mean of wrong answers, summed over pairs."""
    rows = zip(logits, pairs, strict=True)
    return sum(row[list(p.answers)].mean() - row[list(p.wrong_answers)].mean() for row, p in rows)


def _case(family, rule, tiny_model_folder):
    pairs = random_pairs(60, n=2, lengths=(8,))
    ours = WrittenOut(tiny_model_folder(family), RULES[rule])
    clean, corrupt = (torch.tensor([getattr(p, f"{s}_tokens") for p in pairs]) for s in ("clean", "corrupt"))
    return pairs, ours, ours.run(clean), ours.run(corrupt), clean


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", WRITTEN_OUT)
def test_nodes_are_what_the_rules_written_out_give(family, rule, tiny_model, tiny_model_folder):
    pairs, ours, clean, corrupt, tokens = _case(family, rule, tiny_model_folder)
    with torch.no_grad():
        torch.testing.assert_close(clean[3], ours.hf(tokens).logits[:, -1], rtol=1e-4, atol=1e-4)
    outputs = [*clean[1], *clean[2]]
    gradients = torch.autograd.grad(_metric(clean[3], pairs), outputs)
    changes = [a - b for a, b in zip(outputs, [*corrupt[1], *corrupt[2]], strict=True)]
    wanted = [(change * g).sum((1, -1)).detach() for change, g in zip(changes, gradients, strict=True)]
    n, nodes = len(clean[1]), NODES[rule](tiny_model(family), pairs)
    size = abs(nodes.heads_per_pair).max()
    np.testing.assert_allclose(nodes.heads_per_pair, torch.stack(wanted[:n], 1), rtol=1e-3, atol=1e-4 * size)
    np.testing.assert_allclose(nodes.mlps_per_pair, torch.stack(wanted[n:], 1), rtol=1e-3, atol=1e-4 * size)
    assert (abs(nodes.heads) > 1e-6).all() and (abs(nodes.mlps) > 1e-6).all()
    if rule != "gradient":  # and not what the gradient gives
        assert abs(nodes.heads[0] - attribution(tiny_model(family), pairs).heads[0]).max() > 1e-2 * size


RECEIVERS = [("attn", 1, 1, "q"), ("attn", 1, 1, "k"), ("attn", 1, 2, "v")]
RECEIVERS += [("mlp", 1), ("mlp", 0), ("logits", 0)]


@pytest.mark.parametrize("rule", EDGES)
@pytest.mark.parametrize("family", WRITTEN_OUT[:2])
def test_edges_are_what_the_rules_written_out_give(family, rule, tiny_model, tiny_model_folder):
    pairs, ours, clean, corrupt, tokens = _case(family, rule, tiny_model_folder)
    edges = EDGES[rule](tiny_model(family), pairs).edges
    by_ends = {(e.sender, e.receiver, e.into): e.score for e in edges}
    written = {"input": clean[0] - corrupt[0]}
    for layer, block in enumerate(ours.blocks):
        written[f"m{layer}"] = clean[2][layer] - corrupt[2][layer]
        for head in range(ours.n_heads):
            at_head = (torch.arange(ours.n_heads) == head)[:, None]
            change, nothing = ((clean[1][layer] - corrupt[1][layer]) * share for share in (at_head, 0))
            written[f"a{layer}.h{head}"] = ours.write(block, change) - ours.write(block, nothing)
    for receiver in RECEIVERS:
        kind, layer, *rest = receiver
        name = {"attn": f"a{layer}.h{[*rest, 0][0]}", "mlp": f"m{layer}", "logits": "logits"}[kind]
        into = rest[1] if rest else None
        added = torch.zeros_like(written["input"], requires_grad=True)
        metric = _metric(ours.run(tokens, added, receiver)[3], pairs)
        (gradient,) = torch.autograd.grad(metric, added, allow_unused=True, materialize_grads=True)
        senders = [sender for sender in written if (sender, name, into) in by_ends]
        wanted = [(written[sender] * gradient).sum().item() / len(pairs) for sender in senders]
        scores = [by_ends[sender, name, into] for sender in senders]
        np.testing.assert_allclose(scores, wanted, rtol=2e-3, atol=1e-5)
        assert np.any(wanted) == (rule != "relp-detached" or into not in ("q", "k"))


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_the_forward_is_bit_for_bit_the_same(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=2)
    plain = attribution(model, pairs)
    for method in (relp, gim):
        scores = method(model, pairs)
        np.testing.assert_array_equal(scores.metric_clean, plain.metric_clean)
        np.testing.assert_array_equal(scores.metric_corrupt, plain.metric_corrupt)
        assert np.isfinite(scores.heads).all() and abs(scores.heads - plain.heads).max() > 1e-3
        assert scores.cost.forwards == plain.cost.forwards
    assert not any(hook for point in model.hook_dict.values() for hook in point.fwd_hooks if not hook.is_permanent)


def test_a_softer_softmax_sees_what_saturated_attention_hides():
    """The previous-token head acts through keys alone: a temperature finds it, a constant pattern loses it."""
    (model, pairs), head = planted("planted-induction", 12), at("a0.h3")
    plain = attribution(model, pairs)
    gap = (plain.metric_clean - plain.metric_corrupt).mean()
    cold, hot = (gim(model, pairs, GIMConfig(temperature=t)).heads[head] for t in (1.0, 4.0))
    assert cold == pytest.approx(plain.heads[head] / 4, rel=1e-3)  # it reaches the key
    assert hot > 4 * cold
    assert relp(model, pairs).heads[head] == pytest.approx(plain.heads[head], rel=1e-4)  # no norm and no MLP
    assert abs(relp(model, pairs, RelPConfig(attention="detached")).heads[head]) < 1e-4 * gap
    assert head in {at(site) for site in planted_truth("planted-induction").heads}


def test_experts_whose_neurons_cannot_be_reached_are_refused(model, monkeypatch):
    monkeypatch.setattr("interp.scores.baselines.backward_rules.has_hook", lambda _model, name: "mlp.out" not in name)
    for rules in (shared_mlps, halved_gates):
        with pytest.raises(InputError, match="the neurons of blocks.0.mlp cannot be reached"):
            rules(model)
