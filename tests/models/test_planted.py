"""The planted models do what their truth says, by activation patching and exact single-edge patching."""

from itertools import product

import pytest
import torch

from interp.errors import InputError
from interp.models.hooks import hooked
from interp.planted.models import load_planted_model, planted_names, planted_truth
from interp.planted.tasks import VOCABULARY, load_planted_task, planted_task_names
from tests.models.planted_bench import NEGLIGIBLE, Bench, attention, bench, given, hook, parse

NAMES = planted_names()
QUIET = [name for name in NAMES if not planted_truth(name).distractors]
"""The others are tested in test_planted_redundancy.py."""
CASES = [(name, kind) for name in QUIET for kind in load_planted_task(name).counterfactuals]
MOVER, BACKUPS, NEGATIVE, COUNTER = "a1.h4", ("a2.h1", "a2.h3"), "a3.h2", "a0.h2"
ARMS = {"a1.h2": "a0.h4", "a0.h1": "a0.h4", "a0.h4": "a1.h2"}
"""Heads of planted-or that do not matter by themselves -> the other arm."""
ALONE_NOTHING = {"planted-backup": set(BACKUPS), "planted-or": set(ARMS)}


@pytest.fixture(params=CASES, ids="/".join)
def case(request) -> tuple[Bench, str]:
    name, kind = request.param
    return bench(name, kind), name


# --- the task is solved, and only because of the planted heads ----------------------------------------------


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_clean_prompt_is_answered_and_no_corrupt_one(name, seed):
    model = load_planted_model(name)
    for kind in load_planted_task(name).counterfactuals:
        pairs = load_planted_task(name).sample(model.tokenizer, 100, seed, kind)
        answers = torch.tensor([pair.answers[0] for pair in pairs])
        wrong = torch.tensor([pair.wrong_answers[0] for pair in pairs])
        clean = model(torch.tensor([pair.clean_tokens for pair in pairs]))[:, -1]
        corrupt = model(torch.tensor([pair.corrupt_tokens for pair in pairs]))[:, -1]
        rows = torch.arange(len(pairs))
        assert (clean.argmax(-1) == answers).all()
        assert (clean[rows, answers] - clean[rows, wrong]).min() > 4
        assert (corrupt[rows, answers] - corrupt[rows, wrong]).max() < 0.1


def test_swapping_all_planted_heads_loses_everything_and_all_decoys_nothing(case):
    b, name = case
    truth = planted_truth(name)
    assert b.effect(b.swapped(*truth.heads)) == pytest.approx(1, abs=NEGLIGIBLE)
    assert b.effect(b.swapped(*truth.decoys)) == pytest.approx(0, abs=NEGLIGIBLE)


def test_every_planted_head_but_the_redundant_ones_matters_by_itself(case):
    b, name = case
    for site in planted_truth(name).heads:
        effect = abs(b.effect(b.swapped(site)))
        assert effect < 0.02 if site in ALONE_NOTHING.get(name, ()) else effect > 0.2, site


def test_no_decoy_matters_though_some_change_as_much_as_any_planted_head(case):
    b, name = case
    truth = planted_truth(name)
    change = {}
    for site in (*truth.heads, *truth.decoys):
        layer, head = parse(site)
        change[site] = (b.z_corrupt[layer] - b.z_clean[layer])[:, :, head].norm(dim=-1).mean().item()
    for site in truth.decoys:
        assert abs(b.effect(b.swapped(site))) < NEGLIGIBLE, site
    most = max(change[site] for site in truth.heads)
    assert sum(change[site] >= 0.99 * most for site in truth.decoys) >= 2


def test_every_head_is_planted_or_a_decoy_and_decoys_are_most():
    for name in NAMES:
        truth, cfg = planted_truth(name), load_planted_model(name).cfg
        sites = {f"a{layer}.h{head}" for layer in range(cfg.n_layers) for head in range(cfg.n_heads)}
        assert set(truth.heads) | set(truth.decoys) == sites
        assert not set(truth.heads) & set(truth.decoys)
        assert len(truth.decoys) >= 15
        assert set(truth.outputs) <= set(truth.heads)


# --- edges --------------------------------------------------------------------------------------------------


def test_planted_edges_carry_an_effect_and_no_other_edge_between_heads_does(case):
    b, name = case
    truth = planted_truth(name)
    # the backups sleep beside the mover, and each arm of the OR-gate beside the other: their edges show only without
    asleep = {"planted-backup": [MOVER], "planted-or": ["a0.h4", "a1.h2"]}.get(name, [])
    # S2 repeats a name in both prompts of this counterfactual, only another one
    unseen = {("a0.h1", "a1.h2", "k")} if b.pairs.counterfactual == "s2_io" else set()
    for receiver, into in product(truth.heads, "qkv"):
        earlier = {site for site in (*truth.heads, *truth.decoys) if parse(site)[0] < parse(receiver)[0]}
        members = sorted(earlier & set(truth.heads))
        # every planted sender by itself, all decoys together
        for senders in (*([sender] for sender in members), sorted(earlier & set(truth.decoys))):
            functions = b.edges(senders, receiver, into)
            effects = [abs(b.effect(functions))]
            effects += [abs(b.effect(functions, b.swapped(other))) for other in asleep if senders != [other]]
            edge = (senders[0], receiver, into) if senders else None
            if edge in set(truth.edges) - unseen:
                assert max(effects) > 0.15, (edge, effects)
            else:
                assert max(effects) < NEGLIGIBLE, (senders, receiver, into, effects)


def test_only_the_output_heads_write_to_the_logits(case):
    b, name = case
    truth = planted_truth(name)
    for site in (*truth.heads, *truth.decoys):
        layer, head = parse(site)
        written = (b.z_clean[layer][:, :, head]) @ b.model.blocks[layer].attn.W_O[head]
        direct = (b.metric(written @ b.model.W_U).mean() / b.gap).abs().item()
        if site in truth.outputs and site not in BACKUPS:
            assert direct > 0.15, site
        elif site not in truth.outputs:
            assert direct < NEGLIGIBLE, site


# --- the mechanisms -----------------------------------------------------------------------------------------


def test_induction_attends_to_b_only_while_the_previous_token_head_works():
    b = bench("planted-induction", "random")
    assert attention(b, "a0.h3", "B", "A1") > 0.999
    for site in ("a1.h1", "a2.h4"):
        assert attention(b, site, "END", "B") > 0.95
        with hooked(b.model, b.swapped("a0.h3")):
            assert attention(b, site, "END", "BOS") > 0.85


def test_inhibition_pathway_attends_as_named():
    b = bench("planted-inhibition", "abc")
    assert attention(b, "a0.h1", "S2", "S1") > 0.95
    assert attention(b, "a1.h2", "END", "S2") > 0.95
    for mover in ("a2.h0", "a3.h5"):
        assert attention(b, mover, "END", "IO") > 0.93
        with hooked(b.model, b.swapped("a1.h2")):
            assert attention(b, mover, "END", "IO") == pytest.approx(1 / 3, abs=0.02)


def test_inhibition_acts_through_the_movers_queries_alone():
    b = bench("planted-inhibition", "abc")
    queries = b.read("q", b.clean)
    frozen = {hook(layer, "q"): given(queries[layer], [head]) for layer, head in ((2, 0), (3, 5))}
    assert b.effect(b.swapped("a1.h2")) > 0.9
    assert abs(b.effect(b.swapped("a1.h2") | frozen)) < NEGLIGIBLE
    # one mover alone carries its share
    for name, share in ((hook(2, "q"), 0.4), (hook(3, "q"), 0.6)):
        part = b.effect(b.swapped("a1.h2") | {name: frozen[name]}) / b.effect(b.swapped("a1.h2"))
        assert part == pytest.approx(share, abs=0.01)


def test_backups_rest_beside_the_mover_and_wake_without_it():
    b = bench("planted-backup", "abc")
    assert attention(b, MOVER, "END", "IO") > 0.93
    for backup in BACKUPS:
        assert attention(b, backup, "END", "BOS") > 0.9
        with hooked(b.model, b.swapped(MOVER)):
            assert attention(b, backup, "END", "IO") > 0.9


@pytest.mark.parametrize("kind", ["abc", "s2_io"])
def test_backups_matter_once_the_mover_is_gone(kind):
    b = bench("planted-backup", kind)
    without_mover = b.swapped(MOVER)
    for backup in BACKUPS:
        assert b.effect(b.swapped(MOVER, backup)) - b.effect(without_mover) > 0.15
    assert b.effect(b.swapped(MOVER, *BACKUPS)) == pytest.approx(1, abs=0.01)


def test_swapping_the_mover_alone_understates_what_it_writes():
    b = bench("planted-backup", "abc")
    layer, head = parse(MOVER)
    change = (b.z_clean[layer] - b.z_corrupt[layer])[:, :, head] @ b.model.blocks[layer].attn.W_O[head]
    direct = (b.metric(change @ b.model.W_U).mean() / b.gap).item()
    assert direct > 1.3
    assert 0.15 < b.effect(b.swapped(MOVER)) < 0.3


def test_negative_head_attends_to_the_answer_and_hurts_it():
    b = bench("planted-backup", "abc")
    assert attention(b, NEGATIVE, "END", "IO") > 0.9
    assert b.effect(b.swapped(NEGATIVE)) < -0.3
    assert planted_truth("planted-backup").heads[NEGATIVE] == "negative name mover"


def test_negative_head_is_quiet_when_the_mover_said_nothing():
    b = bench("planted-backup", "abc")
    with hooked(b.model, b.swapped(MOVER)):
        assert attention(b, NEGATIVE, "END", "BOS") > 0.8


@pytest.mark.parametrize(("arm", "other"), ARMS.items())
def test_either_arm_of_the_or_gate_is_enough_and_both_together_are_everything(arm, other):
    b = bench("planted-or", "abc")
    assert abs(b.effect(b.swapped(arm))) < 0.01
    # without either the movers attend to IO, S1 and S2 alike, so S wins, as without inhibition
    assert b.effect(b.swapped(arm, other)) > 1.2
    for mover in ("a2.h0", "a3.h5"):
        assert attention(b, mover, "END", "IO") > 0.99
        with hooked(b.model, b.swapped(arm)):
            assert attention(b, mover, "END", "IO") > 0.99
        with hooked(b.model, b.swapped(arm, other)):
            assert attention(b, mover, "END", "IO") == pytest.approx(1 / 3, abs=0.02)


def test_gradients_find_no_arm_of_the_or_gate_either():
    b = bench("planted-or", "abc")
    for site in ARMS:
        assert abs(b.attribution(site)) < 0.01, site


def test_gradients_pass_through_the_softmax_to_heads_that_act_only_indirectly():
    for name, site in (
        ("planted-induction", "a0.h3"),
        ("planted-inhibition", "a0.h1"),
        ("planted-inhibition", "a1.h2"),
        ("planted-backup", COUNTER),
    ):
        b = bench(name, load_planted_task(name).counterfactuals[0])
        assert b.attribution(site) > 0.05, site


# --- the models and tasks as objects ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_building_twice_gives_the_same_frozen_model_and_leaves_the_global_rng_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, two = load_planted_model(name), load_planted_model(name)
    assert torch.equal(torch.rand(3), expected)
    assert not one.training
    for (key, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
        assert a.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in one.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_round_trip_agrees_with_the_pairs_and_the_bridge(name):
    model = load_planted_model(name)
    for kind in load_planted_task(name).counterfactuals:
        pairs = load_planted_task(name).sample(model.tokenizer, 20, 3, kind)
        for pair in pairs:
            assert model.tokenizer.decode(pair.clean_tokens, skip_special_tokens=True) == pair.clean
            assert model.to_tokens(pair.clean)[0].tolist() == list(pair.clean_tokens)
            assert model.to_str_tokens(pair.corrupt)[1:] == pair.corrupt.split()
            assert "<unk>" not in model.to_str_tokens(pair.clean) + model.to_str_tokens(pair.corrupt)
        assert len({len(pair.clean_tokens) for pair in pairs}) == 1
    assert model.tokenizer.get_vocab() == {word: i for i, word in enumerate(VOCABULARY)}


def test_generation_continues_with_the_answer():
    model = load_planted_model("planted-inhibition")
    text = model.generate(
        "Mary and John went to the store . John gave a drink to",
        max_new_tokens=1,
        do_sample=False,
        verbose=False,
    )
    assert text.endswith("drink to Mary")


def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(InputError, match="'planted-x'.*planted-induction"):
        load_planted_model("planted-x")
    with pytest.raises(InputError, match="'planted-x'.*planted-induction"):
        planted_truth("planted-x")


def test_tasks_and_models_have_the_same_names():
    assert planted_task_names() == NAMES
