"""From prompts to a circuit, whole: planted circuits come out, the result has the promised form and repeats."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp import Run, find_circuit
from interp.circuits.graph_json import read_graph, write_graph
from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.models import load_model
from interp.models.residual_writes import ResidualWrites
from interp.models.save import check_saveable
from interp.models.sites import expand_sites
from interp.planted.models import load_planted_model, planted_truth
from interp.planted.tasks import load_planted_task
from interp.report.page import render_report
from interp.report.repeat import command_line, python_lines
from interp.runs import discover as pipeline
from interp.runs.discover import EXAMPLES
from interp.runs.measure import measure_reference
from interp.scores.adaptive_patching.edges import patched_edges
from interp.scores.adaptive_patching.method import AdaptivePatchingConfig
from interp.scores.overlap import OverlapConfig
from interp.scores.registry import METHODS, method_config
from interp.scores.subnetwork_probing import SubnetworkProbingConfig
from interp.tasks import IOI, PromptPairs, Task, load_task, write_prompt_file

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


def test_what_the_finder_takes_to_be_members_is_there_and_right_before_any_check(run):
    proposed = run.proposed
    assert proposed.false_discovery_rate == 0.1
    assert set(proposed.heads) == set(planted_truth("planted-inhibition").heads)
    assert run.proposed_members == proposed.heads
    plain = find_circuit("planted-inhibition", "planted-inhibition", n=16, method="attribution")
    assert plain.proposed is None and plain.proposed_members == []


def test_the_result_has_the_promised_keys_and_is_strict_json(run):
    again = json.loads(run.model_dump_json())
    promised = {"model", "task", "method", "seed", "n_pairs", "seconds", "heads", "mlps", "edges", "metric"}
    assert promised | {"recovery", "versions", "format"} <= set(again)
    assert {"layer", "head", "score", "effect", "in_circuit", "roles"} <= set(again["heads"][0])
    assert {"sender", "receiver", "into", "score", "effect", "measured", "co_occurrence"} <= set(
        again["edges"][0]
    )
    assert {"clean", "corrupt"} <= set(again["metric"])
    assert len(again["heads"]) == 24 and again["mlps"] == []
    assert again["universe"] == "heads"
    pairs = again["provenance"]["pairs"]
    assert (pairs["counterfactual"], pairs["seed"], pairs["bos"], pairs["n_pairs"]) == ("abc", 0, True, 16)


def test_the_same_call_gives_the_same_result(run):
    again = find_circuit("planted-inhibition", "planted-inhibition", n=16)
    assert again.model_dump(exclude={"seconds"}) == run.model_dump(exclude={"seconds"})
    for name, array in run.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_run_is_a_circuit_that_other_tools_read(run, tmp_path):
    circuit = run.circuit
    assert [part.site for part in circuit.members] == [part.site for part in run.members]
    assert list(circuit.to_pandas().site) == [part.site for part in circuit.heads] and not circuit.mlps
    write_graph(circuit, tmp_path / "graph.json", d_model=256)
    again = read_graph(tmp_path / "graph.json", model=circuit.model, task=circuit.task)
    assert {part.site for part in again.members} >= set(planted_truth("planted-inhibition").heads)


def test_details_hold_what_a_report_shows_of_each_member(run):
    assert len(run.examples) == EXAMPLES
    example = run.examples[0]
    for head in run.circuit.heads:
        pattern = run.pattern(head.site)
        assert pattern.shape == (len(example.clean),) * 2
        np.testing.assert_allclose(pattern.sum(1), 1, atol=1e-2)
        assert sum(share for _, share in head.codes.clean) == pytest.approx(1)
        assert head.writes.top[0][1] >= head.writes.top[-1][1] > head.writes.bottom[0][1]
    mover = run.component("a2.h0")
    assert mover.writes.top[0][0].strip() in {answer.strip() for answer in example.answers}


def test_patterns_of_long_prompts_are_left_out(run, monkeypatch):
    monkeypatch.setattr(pipeline, "LONGEST", len(run.examples[0].clean) - 1)
    long = find_circuit("planted-inhibition", "planted-inhibition", n=8)
    assert long.members and long.pattern(long.members[0].site) is None
    assert 'class="pattern"' in render_report(run) and 'class="pattern"' not in render_report(long)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_one_kind_of_result(method):
    run = find_circuit("planted-induction", "planted-induction", method=method, n=12, config=FAST.get(method))
    assert run.method == method
    found = {part.site for part in run.members}
    truth = set(planted_truth("planted-induction").heads)
    # every candidate is checked exactly, so no method can report a decoy
    assert found == truth
    assert {e.into for e in run.edges} <= ({None} if method == "overlap" else {"q", "k", "v"})


def test_patching_is_not_measured_a_second_time():
    run = find_circuit("planted-induction", "planted-induction", method="patching", n=8)
    assert run.cost["check"] == 0
    for part in run.members:
        assert part.effect == pytest.approx(part.score)


def test_a_loaded_model_and_a_task_object_work_like_their_names(run):
    from interp import load_task

    model = load_planted_model("planted-inhibition")
    again = find_circuit(model, load_task("planted-inhibition"), n=16)
    assert [p.site for p in again.members] == [p.site for p in run.members]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "0"),
        ({"n": -5}, "-5"),
        ({"n": 2}, "too few"),
        ({"method": "magic"}, "'magic'.*attribution"),
        ({"counterfactual": "odd"}, "odd"),
        ({"candidates": 0}, "candidates 0"),
        ({"batch_size": 0}, "batch size 0"),
        ({"threshold": 0.0, "model": "no-such-model"}, "threshold 0.0"),  # before it is looked for
        ({"threshold": float("nan")}, "threshold nan: it is a share"),
        ({"threshold": np.float32("nan")}, "threshold nan: it is a share"),
        ({"n": 8.0}, "n 8.0: it must be a whole number"),
        ({"seed": "1"}, "seed '1': it must be a whole number"),
        ({"batch_size": 2.5}, "batch size 2.5: it must be a whole number"),
        ({"candidates": None}, "candidates None: it must be a whole number"),
        ({"threshold": "0.05"}, "threshold '0.05': it must be a number"),
    ],
)
def test_bad_arguments_name_the_value(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        # as a user calls it, without the tests' own check of types
        asked = {"model": "planted-induction", "task": "planted-induction", "n": 8, **arguments}
        inspect.unwrap(find_circuit)(**asked)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_as_good_as_python_s_and_are_kept(tmp_path):
    plain = find_circuit(
        "planted-induction", "planted-induction", n=8, seed=1, batch_size=4, candidates=9, threshold=0.25
    )
    run = find_circuit(
        "planted-induction",
        "planted-induction",
        n=np.int64(8),
        seed=np.int64(1),
        batch_size=np.int32(4),
        candidates=np.uint8(9),
        threshold=np.float32(0.25),
    )
    again = Run.load(run.save(tmp_path / "run"))
    assert again.model_dump(exclude={"seconds"}) == plain.model_dump(exclude={"seconds"})


def test_a_reference_is_measured_with_numbers_of_numpy(tmp_path):
    model, task = load_model("planted-induction"), load_task("planted-induction")
    measured = measure_reference(task, model, n=np.int64(6), seed=np.int64(7), batch_size=np.int64(4))
    measured.save(tmp_path / "mine.safetensors")
    again = load_reference(tmp_path / "mine.safetensors")
    assert again.provenance["seed"] == 7 and again.n_pairs == 6
    with pytest.raises(InputError, match="seed 1.5: it must be a whole number"):
        inspect.unwrap(measure_reference)(task, model, n=6, seed=1.5)


def test_a_path_stands_for_a_model(tiny_model_folder):
    with pytest.raises(InputError, match="there is no file or folder /absent"):
        find_circuit(Path("/absent"), "ioi")
    with pytest.raises(InputError, match="the task ioi needs at least .* names"):
        find_circuit(tiny_model_folder("llama"), "ioi", n=8)


def test_a_class_whose_file_is_a_path_is_named_in_the_run(tmp_path):
    """Else a published circuit of a task of its name would judge it."""
    (tmp_path / "mine.py").write_text(
        "from interp.planted.tasks import load_planted_task\n\n\n"
        "def mine():\n    return load_planted_task('planted-induction')\n\n\ntask = mine()\n"
    )
    spec = tmp_path / "mine.py:task"
    run = find_circuit("planted-induction", spec, n=6, candidates=4)
    assert run.settings.task_class == str(spec)


def test_members_say_why_and_the_report_shows_it():
    run = find_circuit("planted-inhibition", "planted-inhibition", n=12)
    assert run.method == "adaptive-patching"
    evidence = run.component("a2.h0").evidence
    assert evidence.probability > 0.99 and evidence.changes[0].role == "END"
    page = render_report(run)
    assert "Why it is here" in page
    assert "under permuted labels" in page


@pytest.mark.parametrize("method", ["adaptive-patching", "attribution"])
@pytest.mark.parametrize(
    "wiring", [ResidualWrites(False), ResidualWrites(True, norm="ln1")], ids=["unknown", "no first norm"]
)
def test_a_circuit_is_found_where_edges_or_what_heads_write_cannot_be_had(wiring, method, monkeypatch):
    monkeypatch.setattr(ResidualWrites, "of", lambda _: wiring)
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
    assert ("mover" in roles) == wiring.known and "induction" in roles
    assert all((head.writes is not None) == wiring.known for head in run.circuit.heads)
    assert len(run.left_out) == (1 if wiring.known else 2)
    page = render_report(run)
    assert all(why in page for why in run.left_out)


def test_roles_in_a_report_are_escaped():
    run = find_circuit("planted-inhibition", "planted-inhibition", n=6)
    head = run.component("a2.h0")
    changes = [replace(change, role="<script>alert(1)</script>") for change in head.evidence.changes]
    head.evidence = replace(head.evidence, changes=tuple(changes))
    assert "<script>alert(1)" not in render_report(run)


def test_the_threshold_reaches_the_method():
    run = find_circuit("planted-inhibition", "planted-inhibition", n=6, threshold=0.07)
    assert run.settings.config["threshold"] == 0.07


@pytest.mark.parametrize("method", ["adaptive-patching", "overlap"])
@pytest.mark.parametrize("own_seed", [3, 1])
def test_the_program_of_a_run_repeats_it_with_options_seed_and_threshold_off_their_defaults(method, own_seed):
    options = {"n_codes": "7"}
    config = method_config(method, "planted-induction", options, seed=own_seed, threshold=0.05)
    common = {"n": 8, "seed": 3, "threshold": 0.05, "candidates": 4}
    run = find_circuit("planted-induction", "planted-induction", method=method, config=config, **common)
    again = {}
    exec(python_lines(run).replace('run.save("run")', ""), again)
    assert [head.score for head in again["run"].heads] == [head.score for head in run.heads]
    assert again["run"].settings == run.settings
    assert ("--set seed=1" in command_line(run)) == (own_seed == 1)


def test_a_config_of_another_method_or_threshold_is_refused():
    with pytest.raises(InputError, match="config of type OverlapConfig: method 'attribution' takes a "):
        find_circuit("planted-inhibition", "planted-inhibition", method="attribution", config=FAST["overlap"])
    with pytest.raises(InputError, match=r"threshold 0.02, but 0.3 in the method's config"):
        find_circuit("planted-inhibition", "planted-inhibition", config=AdaptivePatchingConfig(threshold=0.3))


def test_a_reference_is_refused_before_the_sweep_where_the_model_does_not_do_the_task(tmp_path):
    """Clean and corrupt prompts the other way about have a gap below zero."""
    model = load_model("planted-inhibition")
    path = tmp_path / "swapped.json"
    write_prompt_file(
        load_planted_task("planted-inhibition").sample(model.tokenizer, 6, 0), path, model.tokenizer
    )
    document = json.loads(path.read_text())
    for prompt in document["prompts"]:
        prompt["clean"], prompt["corrupt"] = prompt["corrupt"], prompt["clean"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="it does not do this task"):
        measure_reference(load_task(path), model, n=6, checkpoint=tmp_path / "partial.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["swapped.json"]


def test_edges_are_scored_by_the_discovery_s_own_threshold_and_batch_size(monkeypatch):
    seen = []

    def watched(*args, **kwargs):
        seen.append(args[3])
        return patched_edges(*args, **kwargs)

    monkeypatch.setattr("interp.scores.adaptive_patching.edges.patched_edges", watched)
    find_circuit("planted-inhibition", "planted-inhibition", n=16, threshold=0.3, batch_size=2)
    assert (seen[0].threshold, seen[0].batch_size) == (0.3, 2)


def test_models_without_mlps_or_a_format_of_their_own_say_so():
    model = load_planted_model("planted-inhibition")
    with pytest.raises(InputError, match="sites mlps: this model has attention only"):
        expand_sites(model, ["mlps"])
    with pytest.raises(InputError, match="cannot be saved in Hugging Face's format"):
        check_saveable(model)


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


@pytest.mark.parametrize(
    "named", [lambda i: {"A": 2} if i % 2 else {"B": 2}, lambda i: {"A": 2} if i else {}]
)
def test_pairs_that_share_no_role_are_read_at_their_last_token(named):
    """Which has no role of its own, and where edges' codes are then taken."""
    own = _renamed(load_task("planted-induction"), lambda i, pair: replace(pair, positions=named(i)))
    found = find_circuit("planted-induction", own, n=8)
    assert found.members and found.edges


def test_what_the_model_does_the_wrong_way_round_is_told_before_the_swaps(monkeypatch):
    def exchanged(_i, pair):
        return replace(pair, answers=pair.wrong_answers, wrong_answers=pair.answers)

    def never(*_given, **_options):
        raise AssertionError

    monkeypatch.setattr("interp.runs.discover.check", never)
    with pytest.raises(InputError, match="which is less: are answers and wrong answers"):
        find_circuit("planted-induction", _renamed(load_task("planted-induction"), exchanged), n=8)


def test_a_class_stands_for_its_task_and_an_unknown_metric_is_refused():
    assert load_task(IOI).name == "ioi"
    pairs = load_task("planted-induction").sample(load_model("planted-induction").tokenizer, 2, 0)
    with pytest.raises(InputError, match="metric 'logit-diff' of task 'x': choose logit_diff"):
        PromptPairs(pairs, task="x", metric="logit-diff", counterfactual="c", seed=0, bos=True)
