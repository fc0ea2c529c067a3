"""The redundant planted models hide heads as they say, by activation patching, and their distractors only seem to
act."""

from itertools import product

import numpy as np
import pytest
import torch

from interp.models.hooks import hooked
from interp.planted.models import BYSTANDER, load_planted_model, planted_names, planted_truth
from interp.planted.tasks import load_planted_task
from interp.scores.attribution import attribution
from tests.models.planted_bench import NEGLIGIBLE, Bench, attention, bench, parse

NAMES = [name for name in planted_names() if planted_truth(name).distractors]
MOVER = "a2.h4"
SILENT = {
    "planted-hydra": {"a3.h1", "a4.h3"},
    "planted-suppression": {"a3.h1", "a3.h3"},
    "planted-gates": {"a0.h1", "a0.h3", "a0.h4", "a1.h2", "a1.h4"},
}
"""Heads that do not matter by themselves."""
WAKERS = {
    "planted-hydra": {"a3.h1": (MOVER,), "a4.h3": (MOVER, "a3.h1")},
    "planted-suppression": {"a0.h2": ("a3.h1",), MOVER: ("a3.h1",), "a3.h1": (MOVER,), "a3.h3": (MOVER,)},
    "planted-gates": {
        "a0.h1": ("a0.h4", "a0.h3"),
        "a0.h3": ("a0.h4", "a0.h1"),
        "a0.h4": ("a1.h2", "a1.h4"),
        "a1.h2": ("a0.h4", "a1.h4"),
        "a1.h4": ("a0.h4", "a1.h2"),
    },
}
"""Heads that matter when others are gone -> which."""
ASLEEP = {
    "planted-hydra": [(MOVER,), ("a3.h1",), (MOVER, "a3.h1")],
    "planted-suppression": [(MOVER,)],
    "planted-gates": [
        *(("a0.h4", *others) for others in product(("a0.h1", "a0.h3"), ("a1.h2", "a1.h4"))),
        ("a1.h2", "a1.h4"),
    ],
}
"""Heads whose absence shows the edges that are asleep in the clean run."""
NUDGES = ("a0.h5", "a1.h1")


@pytest.fixture(params=NAMES)
def case(request) -> tuple[Bench, str]:
    return bench(request.param, "abc"), request.param


@pytest.mark.parametrize("name", NAMES)
def test_every_clean_prompt_is_answered_and_a_corrupt_one_by_chance(name):
    model = load_planted_model(name)
    pairs = load_planted_task(name).sample(model.tokenizer, 100, 1)
    rows = torch.arange(len(pairs))
    answers, wrong = ([getattr(pair, of)[0] for pair in pairs] for of in ("answers", "wrong_answers"))
    clean = model(torch.tensor([pair.clean_tokens for pair in pairs]))[:, -1]
    corrupt = model(torch.tensor([pair.corrupt_tokens for pair in pairs]))[:, -1]
    difference = corrupt[rows, answers] - corrupt[rows, wrong]
    assert (clean[rows, answers] - clean[rows, wrong]).min() > 4
    assert difference.mean().abs() < 0.3 and difference.std() > 0.3


def test_the_planted_heads_and_the_distractors_are_all_there_is(case):
    b, name = case
    truth = planted_truth(name)
    assert b.effect(b.swapped(*truth.heads, *truth.distractors)) == pytest.approx(1, abs=NEGLIGIBLE)
    assert b.effect(b.swapped(*truth.heads)) == pytest.approx(1, abs=0.1)
    assert set(truth.distractors) < set(truth.decoys) and len(truth.decoys) >= 20
    for site in set(truth.decoys) - set(truth.distractors):
        assert abs(b.effect(b.swapped(site))) < NEGLIGIBLE, site


def test_heads_that_others_stand_in_for_show_no_effect_and_no_gradient(case):
    b, name = case
    for site in planted_truth(name).heads:
        if site in SILENT[name]:
            assert abs(b.effect(b.swapped(site))) < 0.02, site
            assert abs(b.attribution(site)) < 0.05, site
    silent = sorted(abs(b.attribution(site)) for site in SILENT[name])
    assert silent[1] < 0.002, "two at least are below every nudge"


def test_every_planted_head_matters_when_those_that_stand_in_for_it_are_gone(case):
    b, name = case
    for site in planted_truth(name).heads:
        gone = WAKERS[name].get(site, ())
        effect = b.effect(b.swapped(site, *gone)) - b.effect(b.swapped(*gone))
        assert abs(effect) > 0.15, site


def test_planted_edges_carry_an_effect_and_no_other_edge_between_heads_does(case):
    b, name = case
    truth = planted_truth(name)
    contexts = [None, *(b.swapped(*sites) for sites in ASLEEP[name])]
    for receiver, into in product(truth.heads, "qkv"):
        earlier = {site for site in (*truth.heads, *truth.decoys) if parse(site)[0] < parse(receiver)[0]}
        senders = {sender for sender in earlier if (sender, receiver, into) in truth.edges}
        for sender in senders:
            effects = [
                abs(b.effect(b.edges([sender], receiver, into, context), context))
                for context, sites in zip(contexts, [(), *ASLEEP[name]], strict=True)
                if sender not in sites
            ]
            assert max(effects) > 0.15, (sender, receiver, into, effects)
        others = b.edges(sorted(earlier - senders - set(NUDGES)), receiver, into)
        for context in (contexts[0], contexts[-1]):
            assert abs(b.effect(others, context)) < NEGLIGIBLE, (receiver, into)


# --- the mechanisms -----------------------------------------------------------------------------------------


def test_the_second_backup_wakes_only_when_the_mover_and_the_first_are_gone():
    b = bench("planted-hydra", "abc")
    first, second = "a3.h1", "a4.h3"
    assert attention(b, first, "END", "BOS") > 0.98 and attention(b, second, "END", "BOS") > 0.98
    with hooked(b.model, b.swapped(MOVER)):
        assert attention(b, first, "END", "IO") > 0.95 and attention(b, second, "END", "BOS") > 0.95
    with hooked(b.model, b.swapped(MOVER, first)):
        assert attention(b, second, "END", "IO") > 0.95
    one, two, three = ((MOVER,), (MOVER, first), (MOVER, first, second))
    effects = [b.effect(b.swapped(*sites)) for sites in (one, two, three)]
    assert effects == pytest.approx([0.25, 0.45, 1.0], abs=0.05)
    assert b.effect(b.swapped(MOVER, second)) == pytest.approx(effects[0], abs=0.01)


def test_self_repair_hides_the_mover_of_the_suppressed_model_whole():
    b = bench("planted-suppression", "abc")
    negative, backups = "a4.h2", ("a3.h1", "a3.h3")
    assert abs(b.effect(b.swapped(MOVER))) < 0.1 < 1.5 < b.attribution(MOVER)
    assert b.effect(b.swapped(MOVER, backups[0])) > 0.4
    assert b.effect(b.swapped(MOVER, *backups)) == pytest.approx(1, abs=0.05)
    # the negative head writes against the copied name, and falls silent with the mover
    assert b.effect(b.swapped(negative)) < -0.5
    assert attention(b, negative, "END", "IO") > 0.95
    with hooked(b.model, b.swapped(MOVER)):
        assert attention(b, negative, "END", "BOS") > 0.95


def test_gates_fall_only_when_both_of_a_pair_and_the_counter_are_gone():
    b = bench("planted-gates", "abc")
    counter, pairs = "a0.h4", (("a0.h1", "a0.h3"), ("a1.h2", "a1.h4"))
    for one, other in pairs:
        assert abs(b.effect(b.swapped(one, other))) < 0.02
        assert abs(b.effect(b.swapped(one, counter))) < 0.02
        assert b.effect(b.swapped(one, other, counter)) > 1.2
    assert abs(b.effect(b.swapped(pairs[0][0], pairs[1][0], counter))) < 0.02


# --- the distractors ----------------------------------------------------------------------------------------


def test_nudges_have_an_attribution_several_times_their_effect_in_every_context(case):
    b, name = case
    for site in NUDGES:
        assert abs(b.attribution(site)) > 0.03, site
        for context in ((), *ASLEEP[name]):
            base = b.swapped(*context)
            effect = b.effect(b.swapped(site, *context)) - b.effect(base)
            assert abs(effect) < 0.01, (site, context)


def test_bystanders_have_effects_on_prompts_and_none_in_the_mean():
    name = "planted-hydra"
    model = load_planted_model(name)
    pairs = load_planted_task(name).sample(model.tokenizer, 400, 5)
    scores = attribution(model, pairs)
    gap = (scores.metric_clean - scores.metric_corrupt).mean()
    for site in set(planted_truth(name).distractors) - set(NUDGES):
        layer, head = parse(site)
        # nobody reads what they write: attribution is exact
        effects = scores.heads_per_pair[:, layer, head] / gap
        assert 0.6 * BYSTANDER < effects.std() < 1.8 * BYSTANDER, site
        assert abs(effects.mean()) < 4 * effects.std() / np.sqrt(len(pairs)), site
