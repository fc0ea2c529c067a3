"""Written circuits come out as written, and every number is that of whole forwards with hooks."""

import json

import numpy as np
import pytest
import torch

from interp.contrast import Why, why
from interp.contrast.explain import LARGE
from interp.contrast.explanation import CURVE
from interp.contrast.prompts import align
from interp.errors import InputError
from interp.interventions.frozen import FrozenContext, Node
from interp.models import parse_site
from interp.planted.models import planted_truth
from interp.tasks import load_task
from tests.oracles import planted

KEYS = {
    *("a", "b", "answers", "difference", "nodes", "arrows", "alone", "alone_with_mlps", "needed", "sparse"),
    *("seconds", "model", "chat", "tokens", "tokens_b", "with_mlps", "controls", "kept", "left", "notes", "n_heads"),
}
A = "Mary and John went to the store . John gave a ring to"
B = "Mary and John went to the store . Mary gave a ring to"
TINY_A = "When Mary and John went to the store, John gave a drink to"
TINY_B = "When Mary and John went to the store, Mary gave a drink to"


class Hooked:
    """Two prompts run by transformer-lens alone, aligned by their ends from a position of A on."""

    def __init__(self, model, a, b, answer, instead):
        self.model, self.a, self.shift = model, a, len(b) - len(a)
        self.pair = answer, instead
        with torch.no_grad():
            logits, self.cache_a = model.run_with_cache(torch.tensor([a]))
            other, self.cache_b = model.run_with_cache(torch.tensor([b]))
        self.log_p, self.log_q = logits[0, -1].log_softmax(-1), other[0, -1].log_softmax(-1)
        self.at_a = self.metric(self.log_p)

    def metric(self, logits) -> float:
        return float(logits[self.pair[0]] - logits[self.pair[1]])

    def of_b(self, node) -> torch.Tensor:
        at = self.cache_b[node.site.hook][0, node.position + self.shift]
        return at if node.head is None else at[node.head]

    def run(self, hooks) -> torch.Tensor:
        with torch.no_grad():
            return self.model.run_with_hooks(torch.tensor([self.a]), fwd_hooks=hooks)[0, -1]

    def alone(self, live, first) -> torch.Tensor:
        """Log-probabilities with every head and MLP at B from ``first`` on, but for those that are live."""
        heads = self.model.cfg.n_heads

        def hold(layer, *, mlp):
            def hook(x, **_):
                x = x.clone()
                for position, component in np.argwhere(~live[layer]):
                    if mlp == (component == heads):
                        at = Node(layer, position + first, None if mlp else component)
                        x[(0, at.position, *((at.head,) if not mlp else ()))] = self.of_b(at)
                return x

            return f"blocks.{layer}.{'hook_mlp_out' if mlp else 'attn.hook_z'}", hook

        hooks = [hold(layer, mlp=mlp) for layer in range(len(live)) for mlp in (False, True)]
        return self.run(hooks).log_softmax(-1)

    def patched(self, node, value) -> float:
        """Fall of the metric when one node writes this."""
        return self.at_a - self.metric(self.run([self._put(node, value)]))

    def after(self, sender, receiver, *, direct: bool) -> torch.Tensor:
        """What a receiver writes when the sender writes what it did on B; with all between them as in A if direct."""
        read, hooks = [], [self._put(sender, self.of_b(sender))]
        for name in self.cache_a if direct else ():
            if name.endswith(("attn.hook_z", "hook_mlp_out")) and name != receiver.site.hook:
                whole = self.cache_a[name].clone()
                if name == sender.site.hook:
                    whole[0, sender.position, sender.head] = self.of_b(sender)
                hooks.append((name, lambda _x, whole=whole, **_: whole))
        hooks.append((receiver.site.hook, lambda z, **_: read.append(z.clone())))
        self.run(hooks)
        return read[0][0, receiver.position, receiver.head]

    def _put(self, node, value):
        def hook(x, **_):
            x = x.clone()
            x[(0, node.position, *(() if node.head is None else (node.head,)))] = value
            return x

        return node.site.hook, hook


def node_of(node) -> Node:
    site = parse_site(node.site)
    return Node(site.layer, node.position, site.head)


def tokens_of(model, text) -> list[int]:
    bos = model.tokenizer.bos_token_id
    return [bos, *model.tokenizer(text, add_special_tokens=False).input_ids]


@pytest.mark.parametrize(
    ("name", "kind", "roles"),
    [
        ("planted-induction", "random", {"a0.h3": "B"}),
        ("planted-inhibition", "abc", {"a0.h1": "S2"}),
        ("planted-inhibition", "s2_io", {"a0.h1": "S2"}),
    ],
)
def test_what_was_written_comes_out_and_nothing_else(name, kind, roles):
    model, truth = planted(name, 1)[0], planted_truth(name)
    for pair in load_task(name).sample(model.tokenizer, 4, 3, kind):
        answer, instead = (model.tokenizer.decode(ids) for ids in (pair.answers, pair.wrong_answers))
        explanation = why(model, pair.clean, pair.corrupt, answer=answer, instead=instead)
        wanted = {(site, pair.positions[roles.get(site, "END")]) for site in truth.heads}
        assert {(node.site, node.position) for node in explanation.nodes} == wanted
        assert explanation.kept == len(wanted) and explanation.sparse and not explanation.notes
        arrows = {(explanation.nodes[x.sender].site, explanation.nodes[x.receiver].site) for x in explanation.arrows}
        assert arrows == {(sender, receiver) for sender, receiver, _ in truth.edges}
        assert explanation.alone[-1].restored == pytest.approx(1, abs=0.01) == explanation.needed
        assert explanation.alone[-1].kl_removed == pytest.approx(1, abs=0.01)
        assert max(abs(row.restored) for row in explanation.controls["at random"][:2]) < 0.5


@pytest.mark.parametrize("name", ["planted-backup", "planted-hydra"])
def test_of_backups_the_nodes_are_those_of_exact_effect(name):
    model = planted(name, 1)[0]
    [pair] = load_task(name).sample(model.tokenizer, 1, 3)
    answer, instead = (model.tokenizer.decode(ids) for ids in (pair.answers, pair.wrong_answers))
    explanation = why(model, pair.clean, pair.corrupt, answer=answer, instead=instead)
    hooked = Hooked(model, pair.clean_tokens, pair.corrupt_tokens, pair.answers[0], pair.wrong_answers[0])
    least = LARGE * abs(hooked.at_a - hooked.metric(hooked.log_q))
    exact = {
        (str(node.site), node.position): hooked.patched(node, hooked.of_b(node))
        for layer in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
        for position in range(pair.first_difference, len(pair.clean_tokens))
        for node in [Node(layer, position, head)]
    }
    large = {place for place, effect in exact.items() if abs(effect) >= least}
    assert {(n.site, n.position) for n in explanation.nodes if abs(n.effect) >= least} == large
    assert len(large) >= 2 and set(planted_truth(name).heads) - {site for site, _ in large}  # backups hide


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama", "gemma2"])
@pytest.mark.parametrize("added", [(), (7, 9)])
@pytest.mark.parametrize("mlps", [False, True])
def test_shares_are_those_of_whole_forwards(family, added, mlps, tiny_model):
    model = tiny_model(family)
    a = [3, 20, 31, 40, 25, 33, 21, 50]
    b = [3, 20, *added, 32, 40, 26, 33, 21, 50]
    first = 6 - 1 if added else 2  # of unequal lengths the common end
    context, hooked = FrozenContext(model, a, b, first, 11, 30), Hooked(model, a, b, 11, 30)
    rng = np.random.default_rng(0)
    arms = rng.random((5, *context.shape)) < np.array([0, 0.2, 0.5, 0.8, 1])[:, None, None, None]
    arms |= context.arms([[]], mlps=mlps)
    n_live = (0 if added else 2) if mlps else context.shape[1]
    assert arms[0].sum() == 2 * n_live, "layers × changed tokens"
    log_p = [hooked.alone(arm, first) for arm in arms]
    nothing, whole = hooked.metric(log_p[0]), kl(hooked.log_p, hooked.log_q)
    for (restored, removed), of_arm in zip(context.shares(arms, mlps=mlps).T, log_p, strict=True):
        share = (hooked.metric(of_arm) - nothing) / (hooked.at_a - nothing)
        assert restored == pytest.approx(share, abs=1e-3)
        assert removed == pytest.approx(1 - kl(hooked.log_p, of_arm) / whole, abs=1e-3)
    assert np.ptp(context.shares(arms, mlps=mlps)[0]) > 0.5
    nodes = context.nodes(rng.permutation(arms[0].size)[:6])
    effects, _ = context.node_effects(nodes)
    np.testing.assert_allclose(effects, [hooked.patched(n, hooked.of_b(n)) for n in nodes], atol=1e-3)
    assert np.abs(effects).max() > 1e-2
    assert context.difference == pytest.approx((hooked.at_a, hooked.metric(hooked.log_q)), abs=1e-3)


def kl(log_p, log_q) -> float:
    return float((log_p.exp() * (log_p - log_q)).sum())


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama", "qwen2", "phi", "gemma2"])
def test_arrows_effects_and_what_is_read_are_those_of_whole_forwards(family, tiny_model, monkeypatch):
    monkeypatch.setattr("interp.contrast.explain.ABOVE", 0.0)
    monkeypatch.setattr("interp.contrast.explain.DRAWN", 0.01)
    model = tiny_model(family)
    explanation = why(model, TINY_A, TINY_B)
    a, b = (tokens_of(model, text) for text in (TINY_A, TINY_B))
    answers = [explanation.answers[x]["id"] for x in ("answer", "instead")]
    hooked = Hooked(model, a, b, *answers)
    assert explanation.arrows
    taken_out = [node_of(node) for node in explanation.nodes[: explanation.kept]]
    without = hooked.metric(hooked.run([hooked._put(node, hooked.of_b(node)) for node in taken_out]))
    whole = (1 - explanation.left) * (hooked.at_a - hooked.metric(hooked.log_q))
    assert explanation.needed == pytest.approx((hooked.at_a - without) / whole, abs=2e-3)
    for arrow in explanation.arrows:
        u, v = (node_of(explanation.nodes[end]) for end in (arrow.sender, arrow.receiver))
        for direct, number in ((True, arrow.direct), (False, arrow.total)):
            value = hooked.after(u, v, direct=direct)
            assert number == pytest.approx(hooked.patched(v, value), abs=2e-4)
    with_mlps = explanation.with_mlps.nodes
    assert any(node.site.startswith("m") for node in with_mlps)
    for node in (*explanation.nodes, *with_mlps):
        at = node_of(node)
        assert node.effect == pytest.approx(hooked.patched(at, hooked.of_b(at)), abs=2e-4)
        if at.head is None:
            assert node.looks_at == []
            continue
        prefix = f"blocks.{at.layer}.attn"
        values = hooked.cache_a[f"{prefix}.hook_v"][0].norm(dim=-1)
        values = values.repeat_interleave(model.cfg.n_heads // values.shape[1], 1)[:, at.head]
        share = hooked.cache_a[f"{prefix}.hook_pattern"][0, at.head, at.position] * values
        for token, position, number in node.looks_at:
            assert number == pytest.approx(float(share[position] / share.sum()), abs=1e-3)
            assert token == model.tokenizer.decode([a[position]])
        assert node.looks_at[0][2] == pytest.approx(float((share / share.sum()).max()), abs=1e-3)
        if family == "llama":
            z = hooked.cache_a[f"{prefix}.hook_z"][0, at.position, at.head]
            written = z @ model.blocks[at.layer].attn.W_O[at.head]
            logits = (written * model.ln_final.original_component.weight) @ model.W_U
            assert node.raises[0] == model.tokenizer.decode([int(logits.argmax())])
            assert node.lowers[0] == model.tokenizer.decode([int(logits.argmin())])
    assert len(explanation.text().splitlines()) <= 25


def test_answers_are_those_that_the_divergence_is_most_about(model):
    a, b = (torch.tensor([tokens_of(model, text)]) for text in (TINY_A, TINY_B))
    with torch.no_grad():
        log_p, log_q = (model(side)[0, -1].log_softmax(-1) for side in (a, b))
    explanation = why(model, TINY_A, TINY_B)
    terms = log_p.exp() * (log_p - log_q), log_q.exp() * (log_q - log_p)
    best = [int(x.argmax()) for x in terms]
    assert [explanation.answers[x]["id"] for x in ("answer", "instead")] == best
    p, q = (torch.cat([x.exp()[best], 1 - x.exp()[best].sum()[None]]) for x in (log_p, log_q))
    covered = float((p * (p / q).log()).sum() / terms[0].sum())
    assert explanation.answers["uncovered"] == pytest.approx(1 - covered, abs=1e-3)
    assert explanation.answers["answer"]["b"] == pytest.approx(float(log_q.exp()[best[0]]), abs=1e-4)


def test_prompts_of_other_lengths_are_aligned_by_their_ends():
    assert align((1, 5, 2, 3), (1, 6, 2, 3)) == (1, [])
    first, notes = align((1, 5, 6, 2, 3), (1, 7, 2, 3))
    assert first == 3 and notes[0].startswith("2 tokens of A")
    assert align((1, 2, 3), (1, 9, 2, 3)) == (1, [])  # nothing of A is left over
    assert align((1, 2, 2, 3), (1, 2, 3))[0] == 3  # the common beginning goes first
    model, _ = planted("planted-induction", 1)
    explanation = why(model, "store ring river old park store", "ring river park store")
    assert explanation.notes and min(node.position for node in explanation.nodes) >= 5


BAD = [
    ((A, A), "the same tokens"),
    (("  ", B), "prompt A '  '"),
    ((A, "Mary went"), "no common end"),
    ((A + " the" * 200, B + " the" * 200), "tokens: the model reads at most"),
    ((A, B, "Mary", "Mary"), "the two answers are the same"),
    ((A, B, "Mary John", "Mary"), "one begins the other"),
    ((A, B, "ring", "book"), "nothing to explain"),
    ((A, B + "\ud83d"), "half of a surrogate"),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_input_is_one_line(given, words):
    model, _ = planted("planted-inhibition", 1)
    a, b, *answers = given
    options = dict(zip(("answer", "instead"), answers, strict=False))
    with pytest.raises(InputError) as error:
        why(model, a, b, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("elsewhere")
def test_the_command_writes_its_result_and_replaces_no_other(command):
    words = ("why", A, B, "--model", "planted-inhibition")
    shown = command(*words, "--out", "explanation", "--json", "explanation.json")
    assert shown.code == 0 and len(shown.out.splitlines()) <= 28
    assert "4 heads at tokens are enough" in shown.out
    for path in ("explanation/why.json", "explanation.json"):
        with open(path) as file:
            stored = json.load(file)
        assert stored.keys() == KEYS | {"request"}
    assert [row["nodes"] for row in stored["alone"]] == [n for n in (*CURVE[:2], 4)]
    of_node = "site position token effect estimate looks_at raises lowers code"
    assert stored["nodes"][0].keys() == {*of_node.split()}
    assert stored["arrows"][0].keys() == {"from", "to", "total", "direct"}
    printed = command(*words, "--json", "-")
    assert json.loads(printed.out).keys() == KEYS
    assert command(*words, "--out", "explanation").code == 0
    other = ("why", B, A, "--model", "planted-inhibition", "--out", "explanation")
    assert command(*other).code == 2 and command(*other, "--overwrite").code == 0
    [following] = shown.following
    assert command(*following).code == 0


def test_a_saved_explanation_is_read_again_or_refused_in_one_line(tmp_path):
    model, _ = planted("planted-inhibition", 1)
    explanation = why(model, A, B)
    assert Why.load(explanation.save(tmp_path / "why")) == explanation
    stored = json.loads((tmp_path / "why" / "why.json").read_text())
    for damage in ({"nodes": 3}, {"arrows": [{}]}, {"a": None}):
        (tmp_path / "why" / "why.json").write_text(json.dumps(stored | damage))
        with pytest.raises(InputError) as error:
            Why.load(tmp_path / "why")
        assert "interp why" in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "why" / "why.json").write_text("{")
    for folder in (tmp_path / "why", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="interp why"):
            Why.load(folder)
