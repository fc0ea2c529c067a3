"""From prompts to a circuit, whole: planted circuits come out, the result has the promised form and repeats."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp import Run, find_circuit
from interp.errors import InputError
from interp.models.residual_writes import ResidualWrites
from interp.models.save import check_saveable
from interp.models.sites import expand_sites
from interp.planted.models import load_planted_model, planted_truth
from interp.report.page import render_report
from interp.report.repeat import command_line, python_lines
from interp.runs.discover import EXAMPLES
from interp.scores.adaptive_patching.method import AdaptivePatchingConfig
from interp.scores.baselines.subnetwork_probing import SubnetworkProbingConfig
from interp.scores.overlap import OverlapConfig
from interp.scores.registry import METHODS, method_config
from interp.scores.result import CodeChange
from interp.tasks import PromptPairs, Task, load_task

FAST = {
    "overlap": OverlapConfig(epochs=50, n_codes=40),
    "subnetwork-probing": SubnetworkProbingConfig(steps=60, lr=0.2, sparsity=0.3),
}


@pytest.fixture(scope="module")
def run() -> Run:
    return find_circuit("planted-inhibition", "planted-inhibition", n=16)


def test_a_planted_circuit_is_found_with_signs_roles_and_edges(run):
    truth = planted_truth("planted-inhibition")
    members = {part.site: part for part in run.members}
    assert set(members) == set(truth.heads)
    assert all(part.effect > 0 for part in members.values())
    edges = {(e.sender, e.receiver, e.into) for e in run.edges if abs(e.score) > 0.02}
    assert edges == set(truth.edges)
    # what the finder takes to be members is right before any check
    assert run.proposed.false_discovery_rate == 0.1
    assert set(run.proposed.heads) == set(truth.heads) and run.proposed_members == run.proposed.heads
    assert run.universe == "heads" and len(run.heads) == 24 and run.mlps == []
    pairs = run.provenance.pairs
    assert (pairs.counterfactual, pairs.seed, pairs.bos, pairs.n_pairs) == ("abc", 0, True, 16)
    evidence = run.component("a2.h0").evidence
    assert evidence.probability > 0.99 and evidence.changes == ()


def test_the_same_call_gives_the_same_result_and_so_do_a_loaded_model_and_a_task_object(run):
    objects = load_planted_model("planted-inhibition"), load_task("planted-inhibition")
    assert [(p.site, p.effect) for p in find_circuit(*objects, n=16).members] == [
        (p.site, p.effect) for p in run.members
    ]
    again = find_circuit("planted-inhibition", "planted-inhibition", n=16)
    assert again.model_dump(exclude={"seconds"}) == run.model_dump(exclude={"seconds"})
    for name, array in run.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_run_is_a_circuit_with_what_a_report_shows_of_each_member(run):
    assert run.circuit.members == run.members and not run.circuit.mlps
    assert list(run.circuit.to_pandas().site) == [part.site for part in run.circuit.heads]
    assert len(run.examples) == EXAMPLES
    example = run.examples[0]
    for head in run.circuit.heads:
        pattern = run.pattern(head.site)
        assert pattern.shape == (len(example.clean),) * 2
        np.testing.assert_allclose(pattern.sum(1), 1, atol=1e-2)
        assert head.codes is None, "no codebooks come with the package for this model"
        assert head.writes.top[0][1] >= head.writes.top[-1][1] > head.writes.bottom[0][1]
    mover = run.component("a2.h0")
    assert mover.writes.top[0][0].strip() in {answer.strip() for answer in example.answers}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_one_kind_of_result(method):
    run = find_circuit("planted-induction", "planted-induction", method=method, n=12, config=FAST.get(method))
    assert run.method == method
    # every candidate is checked exactly, so no method can report a decoy
    assert {part.site for part in run.members} == set(planted_truth("planted-induction").heads)
    assert {e.into for e in run.edges} <= ({None} if method == "overlap" else {"q", "k", "v"})
    assert run.edges_are_counts == (method == "overlap")
    assert (run.proposed is not None) == (method == "adaptive-patching")
    if method == "patching":  # which is not measured a second time
        assert run.cost["check"] == 0
        assert [part.effect for part in run.members] == pytest.approx([part.score for part in run.members])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 8.0}, "n 8.0: it must be a whole number"),
        ({"method": "magic"}, "'magic'.*attribution"),
        ({"batch_size": 2.5}, "batch_size 2.5: it must be a whole number"),
        ({"threshold": 0.0, "model": "no-such-model"}, "threshold 0.0"),  # before it is looked for
        ({"threshold": np.float32("nan")}, "threshold nan: it is a share"),
        ({"config": AdaptivePatchingConfig(threshold=0.3)}, "threshold 0.02, but 0.3 in the method's config"),
        ({"config": FAST["overlap"], "method": "attribution"}, "OverlapConfig: method 'attribution' takes a "),
    ],
)
def test_bad_arguments_name_the_value(arguments, message):
    asked = {"model": "planted-induction", "task": "planted-induction", "n": 8, **arguments}
    with pytest.raises(InputError, match=message) as error:
        inspect.unwrap(find_circuit)(**asked)  # as a user calls it, without the tests' own check of types
    assert "\n" not in str(error.value)


def test_roles_in_a_report_are_escaped(run):
    wicked = run.model_copy(deep=True)
    head = wicked.component("a2.h0")
    change = CodeChange("<script>alert(1)</script>", 1, 2, 1.0, 3.0)
    head.evidence = replace(head.evidence, changes=(change,))
    assert "alert(1)" in render_report(wicked)
    assert "<script>alert(1)" not in render_report(wicked)


def test_a_path_stands_for_a_model(tiny_model_folder):
    with pytest.raises(InputError, match="there is no file or folder /absent"):
        find_circuit(Path("/absent"), "ioi")
    with pytest.raises(InputError, match="the task ioi needs at least .* names"):
        find_circuit(tiny_model_folder("llama"), "ioi", n=8)


@pytest.mark.parametrize("method", ["adaptive-patching", "attribution"])
@pytest.mark.parametrize(
    "residual_writes", [ResidualWrites(False), ResidualWrites(True, norm_first=False)], ids=["unknown", "no first norm"]
)
def test_a_circuit_is_found_where_edges_or_what_heads_write_cannot_be_had(residual_writes, method, monkeypatch):
    monkeypatch.setattr(ResidualWrites, "of", lambda _: residual_writes)
    # of a planted model nothing stands after attention, so that what heads add is z @ W_O
    monkeypatch.setattr(
        ResidualWrites,
        "added_by_heads",
        lambda _, model, layer, z: (z[:, :, None] @ model.blocks[layer].attn.W_O)[:, :, 0],
    )
    run = find_circuit("planted-induction", "planted-induction", n=8, candidates=6, method=method)
    assert {part.site for part in run.members} == set(planted_truth("planted-induction").heads)
    assert run.edges == []
    roles = run.heads[0].roles
    assert ("mover" in roles) == residual_writes.known and "induction" in roles
    assert all((head.writes is not None) == residual_writes.known for head in run.circuit.heads)
    assert len(run.left_out) == (1 if residual_writes.known else 2)
    page = render_report(run)
    assert all(why in page for why in run.left_out)


@pytest.mark.parametrize("method", ["adaptive-patching", "overlap"])
@pytest.mark.parametrize("own_seed", [3, 1])
def test_the_program_of_a_run_repeats_it_with_options_seed_and_threshold_off_their_defaults(method, own_seed):
    options = {"overlap": {"n_codes": "7"}, "adaptive-patching": {"budget": "3"}}[method]
    config = method_config(method, "planted-induction", options, seed=own_seed, threshold=0.05)
    common = {"n": 8, "seed": 3, "threshold": 0.05, "candidates": 4}
    run = find_circuit("planted-induction", "planted-induction", method=method, config=config, **common)
    again = {}
    exec(python_lines(run).replace('run.save("run")', ""), again)
    assert [head.score for head in again["run"].heads] == [head.score for head in run.heads]
    assert again["run"].settings == run.settings
    assert ("--set seed=1" in command_line(run)) == (own_seed == 1)


def test_what_a_planted_model_or_a_sample_lacks_is_told():
    model = load_planted_model("planted-inhibition")
    with pytest.raises(InputError, match="sites mlps: this model has attention only"):
        expand_sites(model, ["mlps"])
    with pytest.raises(InputError, match="cannot be saved in Hugging Face's format"):
        check_saveable(model)
    with pytest.raises(InputError, match="metric 'logit-diff' of task 'x': choose logit_diff"):
        PromptPairs([], task="x", metric="logit-diff", counterfactual="c", seed=0, bos=True)


def _renamed(task, change) -> Task:
    """A class of one's own that gives the pairs of another, changed."""

    class Own:
        name, metric, roles, default_n = "own", task.metric, ("END",), 8
        counterfactuals = task.counterfactuals

        def sample(self, *given, **options):
            pairs = task.sample(*given, **options)
            pairs[:] = map(change, range(len(pairs)), pairs)
            return pairs

    return Own()


@pytest.mark.parametrize("named", [lambda i: {"A": 2} if i % 2 else {"B": 2}, lambda i: {"A": 2} if i else {}])
def test_pairs_that_share_no_role_are_read_at_their_last_token(named):
    """Which has no role of its own, and where edges' codes are then taken."""
    task = _renamed(load_task("planted-induction"), lambda i, pair: replace(pair, positions=named(i)))
    run = find_circuit("planted-induction", task, n=8)
    assert run.members and run.edges


def test_what_the_model_does_the_wrong_way_round_is_told_before_the_swaps(monkeypatch):
    def exchanged(_i, pair):
        return replace(pair, answers=pair.wrong_answers, wrong_answers=pair.answers)

    def never(*_given, **_options):
        raise AssertionError

    monkeypatch.setattr("interp.circuits.verify._patched", never)
    with pytest.raises(InputError, match="which is less: are answers"):
        find_circuit("planted-induction", _renamed(load_task("planted-induction"), exchanged), n=8)
