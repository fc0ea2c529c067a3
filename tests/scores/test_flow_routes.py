"""Information flow routes against a literal transcription of the paper: importances, extraction at a threshold."""

import pytest
import torch

from interp.scores.baselines.flow_routes import FlowRoutesConfig, flow_routes
from tests.oracles import kept
from tests.pairs import random_pairs


class _Literal:
    """Every importance of one prompt by loops over positions, heads and sources."""

    def __init__(self, model, tokens):
        self.layers, self.heads, self.n = model.cfg.n_layers, model.cfg.n_heads, tokens.shape[1]
        self.parallel = "blocks.0.hook_resid_mid" not in model.hook_dict
        names = ["hook_resid_pre", "hook_resid_post", "attn.hook_v", "attn.hook_pattern", "hook_mlp_out"]
        names += [] if self.parallel else ["hook_resid_mid"]
        places = [(layer, name) for layer in range(self.layers) for name in names]
        cache = kept(model, tokens, *(f"blocks.{layer}.{name}" for layer, name in places))
        read = {place: x[0] for place, x in zip(places, cache, strict=True)}
        self.attn, self.mlp = {}, {}  # (layer, pos) -> {part: importance}
        for layer in range(self.layers):
            pre, post, v, pattern, mlp = (read[layer, name] for name in names[:5])
            mid = post if self.parallel else read[layer, "hook_resid_mid"]
            group, config = self.heads // v.shape[1], model.original_model.config
            weight = model.blocks[layer].attn.W_O * getattr(config, "residual_multiplier", 1)
            for i in range(self.n):
                parts = {"residual": pre[i]}
                for h in range(self.heads):
                    for j in range(i + 1):
                        parts[h, j] = pattern[h, i, j] * (v[j, h // group] @ weight[h])
                if self.parallel:
                    parts["mlp"] = mlp[i]
                else:
                    self.mlp[layer, i] = self.importances({"residual": mid[i], "mlp": mlp[i]}, post[i])
                self.attn[layer, i] = self.importances(parts, mid[i])

    @staticmethod
    def importances(parts, whole):
        near = {k: max(0.0, (whole.abs().sum() - (whole - z).abs().sum()).item()) for k, z in parts.items()}
        total = sum(near.values())
        return {k: value / total for k, value in near.items()}

    def route(self, threshold):
        """Components of the route at a threshold: breadth first from END."""
        edges, reached = set(), {self.n - 1}
        for layer in range(self.layers - 1, -1, -1):
            if not self.parallel:
                for i in reached:
                    if self.mlp[layer, i]["mlp"] > threshold:
                        edges.add(f"m{layer}")
                reached = {i for i in reached if max(self.mlp[layer, i].values()) > threshold}
            below = set()
            for i in reached:
                for part, importance in self.attn[layer, i].items():
                    if importance > threshold:
                        below.add(part[1] if isinstance(part, tuple) else i)
                        if part != "residual":
                            edges.add(f"m{layer}" if part == "mlp" else f"a{layer}.h{part[0]}")
            reached = below
        return edges

    def flow(self):
        """What runs down from END, by component."""
        shares, reach = {}, {self.n - 1: 1.0}
        for layer in range(self.layers - 1, -1, -1):
            below = {}
            for i, amount in reach.items():
                if not self.parallel:
                    shares[f"m{layer}"] = shares.get(f"m{layer}", 0) + amount * self.mlp[layer, i]["mlp"]
                for part, importance in self.attn[layer, i].items():
                    source = part[1] if isinstance(part, tuple) else i
                    below[source] = below.get(source, 0) + amount * importance
                    if part != "residual":
                        name = f"m{layer}" if part == "mlp" else f"a{layer}.h{part[0]}"
                        shares[name] = shares.get(name, 0) + amount * importance
            reach = below
        assert sum(reach.values()) == pytest.approx(1, abs=1e-4)
        return shares


def _named(scores):
    named = {f"a{layer}.h{h}": s for layer, row in enumerate(scores.heads) for h, s in enumerate(row)}
    return named | {f"m{layer}": s for layer, s in enumerate(scores.mlps)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "pythia", "qwen2", "granite"])
def test_scores_equal_the_literal_transcription(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=1, lengths=(7,))
    literal = _Literal(model, torch.tensor([pairs[0].clean_tokens]))
    widest = _named(flow_routes(model, pairs))
    for threshold in (0.01, 0.03, 0.1, 0.3, *widest.values()):
        # a score itself is the first threshold at which the component is gone
        for nudge in (-1e-4, 1e-4):
            inside = {site for site, score in widest.items() if score > threshold + nudge}
            assert literal.route(threshold + nudge) == inside
    flow = _named(flow_routes(model, pairs, FlowRoutesConfig(combine="flow")))
    wanted = literal.flow()
    assert flow == pytest.approx({site: wanted.get(site, 0.0) for site in flow}, abs=1e-5)


def test_edges_end_in_values_mlps_and_logits_and_are_shares(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=2)
    scores = flow_routes(model, pairs, FlowRoutesConfig(combine="flow"))
    edges = {(e.sender, e.receiver, e.into): e.score for e in scores.edges}
    assert {into for _, _, into in edges} == {"v", None}
    into_logits = [score for (_, receiver, _), score in edges.items() if receiver == "logits"]
    assert sum(into_logits) == pytest.approx(1, abs=1e-5)
    # what arrives at a head's values is shared out among their writers
    for head in range(4):
        arriving = sum(s for (_, receiver, _), s in edges.items() if receiver == f"a1.h{head}")
        assert arriving == pytest.approx(scores.heads[1, head], abs=1e-5)
