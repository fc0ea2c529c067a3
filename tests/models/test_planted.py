"""The planted models do what their truth says: heads swapped, single edges patched, attention read.

In some of them heads stand in for one another, and distractors only seem to act.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.models.hooks import hooked
from interp.planted.models import BYSTANDER, load_planted_model, planted_names, planted_truth
from interp.planted.tasks import load_planted_task
from interp.scores.attribution import attribution
from tests.oracles import at, kept, mask, planted

NAMES = planted_names()
CASES = [(name, kind) for name in NAMES for kind in load_planted_task(name).counterfactuals]
NEGLIGIBLE = 1e-3
"""Share of the clean-corrupt gap below which there is no effect."""
NUDGES = ("a0.h5", "a1.h1")
WAKERS = {
    "planted-backup": {"a2.h1": ("a1.h4",), "a2.h3": ("a1.h4",)},
    "planted-or": {"a1.h2": ("a0.h4",), "a0.h1": ("a0.h4",), "a0.h4": ("a1.h2",)},
    "planted-hydra": {"a3.h1": ("a2.h4",), "a4.h3": ("a2.h4", "a3.h1")},
    "planted-suppression": {"a0.h2": ("a3.h1",), "a2.h4": ("a3.h1",), "a3.h1": ("a2.h4",), "a3.h3": ("a2.h4",)},
    "planted-gates": {
        "a0.h1": ("a0.h4", "a0.h3"),
        "a0.h3": ("a0.h4", "a0.h1"),
        "a0.h4": ("a1.h2", "a1.h4"),
        "a1.h2": ("a0.h4", "a1.h4"),
        "a1.h4": ("a0.h4", "a1.h2"),
    },
}
"""Heads that matter when others are gone -> which."""
HIDDEN = {name: set(heads) - {"a0.h2", "a2.h4"} for name, heads in WAKERS.items()}
"""Those that show nothing at all by themselves; the mover and its counter do a little."""
ASLEEP = {
    "planted-backup": [("a1.h4",)],
    "planted-or": [("a0.h4",), ("a1.h2",)],
    "planted-hydra": [("a2.h4",), ("a3.h1",), ("a2.h4", "a3.h1")],
    "planted-suppression": [("a2.h4",)],
    "planted-gates": [
        *(("a0.h4", *others) for others in product(("a0.h1", "a0.h3"), ("a1.h2", "a1.h4"))),
        ("a1.h2", "a1.h4"),
    ],
}
"""Heads whose absence shows the edges that are asleep in the clean run."""


class Bench:
    """One model with 32 pairs of its task and the z of every head on both prompts."""

    def __init__(self, name: str, counterfactual: str) -> None:
        self.model = load_planted_model(name)
        self.pairs = load_planted_task(name).sample(self.model.tokenizer, 32, 0, counterfactual)
        self.clean = torch.tensor([pair.clean_tokens for pair in self.pairs])
        self.corrupt = torch.tensor([pair.corrupt_tokens for pair in self.pairs])
        self.z_clean, self.z_corrupt = self.read("z", self.clean), self.read("z", self.corrupt)
        self.metric_clean = self.metric(self.model(self.clean))
        self.metric_corrupt = self.metric(self.model(self.corrupt))
        self.gap = (self.metric_clean - self.metric_corrupt).mean()

    def metric(self, logits: Tensor) -> Tensor:
        rows = torch.arange(len(self.pairs))
        answer = logits[rows, -1, [pair.answers[0] for pair in self.pairs]]
        return answer - logits[rows, -1, [pair.wrong_answers[0] for pair in self.pairs]]

    def read(self, activation: str, tokens: Tensor, hooks: dict | None = None) -> list[Tensor]:
        """hook_z (or q, pattern, …) of every layer."""
        names = [hook(layer, activation) for layer in range(self.model.cfg.n_layers)]
        return kept(self.model, tokens, *names, hooks=hooks)

    def swapped(self, *sites: str) -> dict:
        """Hooks that give these heads, at all positions, their z on the corrupt prompt."""
        heads = defaultdict(list)
        for layer, head in map(at, sites):
            heads[layer].append(head)
        return {hook(layer, "z"): given(self.z_corrupt[layer], at_layer) for layer, at_layer in heads.items()}

    def without(self, *sites: str) -> float:
        """Effect of swapping these heads."""
        return self.effect(self.swapped(*sites))

    def effect(self, functions: dict, base: dict | None = None) -> float:
        """Fall of the mean metric under these hooks, on top of ``base``, as a share of the gap."""
        with hooked(self.model, base or {}):
            before = self.metric(self.model(self.clean)) if base else self.metric_clean
            with hooked(self.model, functions):
                after = self.metric(self.model(self.clean))
        return ((before - after).mean() / self.gap).item()

    def attribution(self, site: str) -> float:
        """Attribution patching: the linear estimate of ``effect(swapped(site))``."""
        layer, head = at(site)
        read = {}

        def keep(x: Tensor) -> Tensor:
            return read.setdefault("z", x.detach().requires_grad_(True))

        with hooked(self.model, {hook(layer, "z"): keep}):
            (self.metric(self.model(self.clean)).mean() / self.gap).backward()
        change = (self.z_clean[layer] - self.z_corrupt[layer])[:, :, head]
        return (change * read["z"].grad[:, :, head]).sum().item()

    def edges(self, senders: Sequence[str], receiver: str, into: str, base: dict | None = None) -> dict:
        """Hooks for path patching: only what ``senders`` add to one input of ``receiver`` becomes corrupt.

        Without norms the input is linear in what the senders write, so one run is exact. Under ``base`` they may write
        something else than in the clean run.
        """
        z_clean = self.read("z", self.clean, base) if base else self.z_clean
        to_layer, to_head = at(receiver)
        written = torch.zeros(*self.clean.shape, self.model.cfg.d_model)
        for layer, head in map(at, senders):
            change = (self.z_corrupt[layer] - z_clean[layer])[:, :, head]
            written += change @ self.model.blocks[layer].attn.W_O[head]
        read = written @ getattr(self.model.blocks[to_layer].attn, f"W_{into.upper()}")[to_head]

        def add(x: Tensor) -> Tensor:
            x = x.clone()
            x[:, :, to_head] += read
            return x

        return {hook(to_layer, into): add}


def hook(layer: int, activation: str) -> str:
    return f"blocks.{layer}.attn.hook_{activation}"


def given(value: Tensor, heads: list[int]):
    def hook(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, heads] = value[:, :, heads]
        return x

    return hook


@cache
def bench(name: str, counterfactual: str) -> Bench:
    return Bench(name, counterfactual)


def attention(b: Bench, site: str, query: str, key: str, gone: Sequence[str]) -> float:
    """Mean weight of ``site`` from one role's position to another's, with some heads swapped."""
    layer, head = at(site)
    pattern = b.read("pattern", b.clean, b.swapped(*gone))[layer][:, head]
    rows = torch.arange(len(b.pairs))
    to = [0 if key == "BOS" else pair.positions[key] for pair in b.pairs]
    return pattern[rows, [pair.positions[query] for pair in b.pairs], to].mean().item()


@pytest.fixture(params=CASES, ids="/".join)
def case(request) -> tuple[Bench, str]:
    name, kind = request.param
    return bench(name, kind), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_clean_prompt_is_answered_and_no_corrupt_one(name, seed):
    model = load_planted_model(name)
    for kind in load_planted_task(name).counterfactuals:
        pairs = load_planted_task(name).sample(model.tokenizer, 100, seed, kind)
        answers, wrong = (torch.tensor([getattr(p, field)[0] for p in pairs]) for field in ("answers", "wrong_answers"))
        sides = ([pair.clean_tokens for pair in pairs], [pair.corrupt_tokens for pair in pairs])
        clean, corrupt = (model(torch.tensor(tokens))[:, -1] for tokens in sides)
        rows = torch.arange(len(pairs))
        assert (clean.argmax(-1) == answers).all()
        assert (clean[rows, answers] - clean[rows, wrong]).min() > 4
        difference = corrupt[rows, answers] - corrupt[rows, wrong]
        if planted_truth(name).distractors:  # by chance
            assert difference.mean().abs() < 0.3 < difference.std()
        else:
            assert difference.max() < 0.1


def test_the_planted_heads_and_the_distractors_are_all_there_is(case):
    b, name = case
    truth, every = planted_truth(name), mask([], b.model).size
    assert len(set(truth.heads) | set(truth.decoys)) == len(truth.heads) + len(truth.decoys) == every
    assert set(truth.outputs) <= set(truth.heads) and set(truth.distractors) <= set(truth.decoys)
    assert len(truth.decoys) >= 15
    assert b.without(*truth.heads, *truth.distractors) == pytest.approx(1, abs=NEGLIGIBLE)
    assert b.without(*truth.heads) == pytest.approx(1, abs=0.1)
    quiet = set(truth.decoys) - set(truth.distractors)
    for sites in (*([site] for site in quiet), quiet):
        assert abs(b.without(*sites)) < NEGLIGIBLE, sites
    # though some decoys change as much as any planted head
    change = [(a - c).norm(dim=-1).mean((0, 1)) for a, c in zip(b.z_clean, b.z_corrupt, strict=True)]
    size = {site: change[at(site)[0]][at(site)[1]] for site in (*truth.heads, *quiet)}
    assert truth.distractors or sum(size[s] >= 0.99 * max(size[h] for h in truth.heads) for s in quiet) >= 2


def test_every_planted_head_matters_by_itself_or_when_those_that_stand_in_for_it_are_gone(case):
    b, name = case
    for site in planted_truth(name).heads:
        gone = WAKERS.get(name, {}).get(site, ())
        assert abs(b.without(site, *gone) - b.without(*gone)) > (0.15 if gone else 0.2), site
    for site in HIDDEN.get(name, ()):
        assert abs(b.without(site)) < 0.02 and abs(b.attribution(site)) < 0.05, site
    if planted_truth(name).distractors:
        silent = sorted(abs(b.attribution(site)) for site in HIDDEN[name])
        assert silent[1] < 0.002, "two at least are below every nudge"


def test_planted_edges_carry_an_effect_and_no_other_edge_between_heads_does(case):
    b, name = case
    truth, asleep = planted_truth(name), ASLEEP.get(name, [])
    contexts = [(None, ()), *((b.swapped(*sites), sites) for sites in asleep)]
    # S2 repeats a name in both prompts of this counterfactual, only another one
    unseen = {("a0.h1", "a1.h2", "k")} if b.pairs.counterfactual == "s2_io" else set()
    nudges = set(NUDGES) if truth.distractors else set()
    for receiver, into in product(truth.heads, "qkv"):
        earlier = {site for site in (*truth.heads, *truth.decoys) if at(site)[0] < at(receiver)[0]}
        senders = {s for s in earlier if (s, receiver, into) in set(truth.edges) - unseen}
        for sender in senders:
            effects = (
                abs(b.effect(b.edges([sender], receiver, into, context), context))
                for context, sites in contexts
                if sender not in sites
            )
            assert any(effect > 0.15 for effect in effects), (sender, receiver, into)
        others = b.edges(sorted(earlier - senders - nudges), receiver, into)
        for context, _ in (contexts[0], contexts[-1]):
            assert abs(b.effect(others, context)) < NEGLIGIBLE, (receiver, into)


@pytest.mark.parametrize("case", [c for c in CASES if not planted_truth(c[0]).distractors], indirect=True, ids="/".join)
def test_only_the_output_heads_write_to_the_logits(case):
    b, name = case
    truth = planted_truth(name)
    resting = HIDDEN[name] if name == "planted-backup" else set()
    for site in {*truth.heads, *truth.decoys} - resting:
        layer, head = at(site)
        writes = (b.z_clean[layer][:, :, head]) @ b.model.blocks[layer].attn.W_O[head]
        direct = (b.metric(writes @ b.model.W_U).mean() / b.gap).abs().item()
        assert direct > 0.15 if site in truth.outputs else direct < NEGLIGIBLE, site


THIRD = (1 / 3 - 0.02, 1 / 3 + 0.02)
"""Attention to three names alike."""


@pytest.mark.parametrize(
    ("name", "gone", "heads", "query", "key", "least", "most"),
    [
        ("induction", "", "a0.h3", "B", "A1", 0.999, 1),
        ("induction", "", "a1.h1 a2.h4", "END", "B", 0.95, 1),
        ("induction", "a0.h3", "a1.h1 a2.h4", "END", "BOS", 0.85, 1),
        ("inhibition", "", "a0.h1", "S2", "S1", 0.95, 1),
        ("inhibition", "", "a1.h2", "END", "S2", 0.95, 1),
        ("inhibition", "", "a2.h0 a3.h5", "END", "IO", 0.93, 1),
        ("inhibition", "a1.h2", "a2.h0 a3.h5", "END", "IO", *THIRD),
        ("backup", "", "a1.h4 a3.h2", "END", "IO", 0.9, 1),  # mover and negative head
        ("backup", "", "a2.h1 a2.h3", "END", "BOS", 0.9, 1),  # backups rest beside the mover
        ("backup", "a1.h4", "a2.h1 a2.h3", "END", "IO", 0.9, 1),  # and wake without it
        ("or", "", "a2.h0 a3.h5", "END", "IO", 0.99, 1),
        ("or", "a0.h4", "a2.h0 a3.h5", "END", "IO", 0.99, 1),  # either arm is enough
        ("or", "a0.h4 a1.h2", "a2.h0 a3.h5", "END", "IO", *THIRD),
        ("hydra", "", "a3.h1 a4.h3", "END", "BOS", 0.98, 1),
        ("hydra", "a2.h4", "a3.h1", "END", "IO", 0.95, 1),
        ("hydra", "a2.h4 a3.h1", "a4.h3", "END", "IO", 0.95, 1),
        ("suppression", "", "a4.h2", "END", "IO", 0.95, 1),  # the negative head
        ("suppression", "a2.h4", "a4.h2", "END", "BOS", 0.95, 1),  # falls silent with the mover
    ],
)
def test_heads_attend_as_named(name, gone, heads, query, key, least, most):
    name = f"planted-{name}"
    b = bench(name, load_planted_task(name).counterfactuals[0])
    for site in heads.split():
        assert least < attention(b, site, query, key, gone.split()) <= most + 1e-6, site


@pytest.mark.parametrize(
    ("name", "gone", "least", "most"),
    [
        ("inhibition", "a1.h2", 0.9, 2),
        ("backup", "a1.h4", 0.15, 0.3),
        ("backup", "a1.h4 a2.h1 a2.h3", 0.99, 1.01),
        ("backup", "a3.h2", -1, -0.3),  # the negative head hurts the answer
        ("or", "a0.h4 a1.h2", 1.2, 2),  # the movers attend to IO, S1 and S2 alike, so S wins
        ("hydra", "a2.h4", 0.2, 0.3),
        ("hydra", "a2.h4 a3.h1", 0.4, 0.5),
        ("hydra", "a2.h4 a3.h1 a4.h3", 0.95, 1.05),
        ("suppression", "a2.h4", -0.1, 0.1),  # hidden whole
        ("suppression", "a2.h4 a3.h1", 0.4, 1),
        ("suppression", "a2.h4 a3.h1 a3.h3", 0.95, 1.05),
        ("suppression", "a4.h2", -2, -0.5),
        # gates fall only when both of a pair and the counter are gone
        ("gates", "a0.h1 a0.h3", -0.02, 0.02),
        ("gates", "a0.h1 a1.h2 a0.h4", -0.02, 0.02),
        ("gates", "a0.h1 a0.h3 a0.h4", 1.2, 2),
    ],
)
def test_what_is_lost_without_some_heads(name, gone, least, most):
    name = f"planted-{name}"
    b = bench(name, load_planted_task(name).counterfactuals[0])
    assert least < b.without(*gone.split()) < most


@pytest.mark.parametrize("name", [name for name in NAMES if planted_truth(name).distractors])
def test_nudges_have_an_attribution_several_times_their_effect_in_every_context(name):
    b = bench(name, "abc")
    for site in NUDGES:
        assert abs(b.attribution(site)) > 0.03, site
        for context in ((), *ASLEEP[name]):
            assert abs(b.without(site, *context) - b.without(*context)) < 0.01, (site, context)


def test_bystanders_have_effects_on_prompts_and_none_in_the_mean():
    name = "planted-hydra"
    scores = attribution(*planted(name, 400, seed=5))
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    for site in set(planted_truth(name).distractors) - set(NUDGES):
        # nobody reads what they write: attribution is exact
        effects = scores.heads_per_pair[:, *at(site)] / gap
        assert 0.6 * BYSTANDER < effects.std() < 1.8 * BYSTANDER, site
        assert abs(effects.mean()) < 4 * effects.std() / np.sqrt(400), site


@pytest.mark.parametrize("name", NAMES)
def test_building_twice_gives_the_same_frozen_model_and_leaves_the_global_rng_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, second = load_planted_model(name), load_planted_model(name)
    assert torch.equal(torch.rand(3), expected)
    assert not first.training
    for (key, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
        assert a.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in first.parameters())
