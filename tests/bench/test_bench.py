"""The bench end to end on planted models: right numbers, nothing done twice, nothing lost by a kill."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp.bench.judges import Court, ReferenceJudge
from interp.bench.plan import YARDSTICK, BenchPlan, drawn
from interp.bench.run import run_bench
from interp.circuits.references import ExactEffects
from interp.errors import InputError
from interp.evaluation.faithfulness import faithfulness_curves
from interp.evaluation.recovery import recover
from interp.interventions.ablation import Ablator
from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task
from interp.scores.registry import load_method
from interp.tasks import write_prompt_file
from tests.oracles import planted, written

TASK = "planted-inhibition"
SMALL = {"pairs": (4, 8), "seeds": 2, "pool": 16, "held_out": 5, "reference": 20}
FOLDER = f"{TASK}--{TASK}"


def plan(**changes) -> BenchPlan:
    return BenchPlan(**{"tasks": (TASK,), "methods": ("attribution", "eap"), **SMALL, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("bench")
    return folder, run_bench(plan(), folder)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "bench"))


def files(folder: Path) -> dict[str, bytes]:
    """Of results; the log is beside them."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def cell(result: dict, method: str, n: int, seed: int) -> dict:
    (matching_row,) = [row for row in result["cells"] if (row["method"], row["n"], row["seed"]) == (method, n, seed)]
    return matching_row


def test_a_cells_numbers_are_those_of_the_method_run_on_its_pairs_alone(finished):
    _, result = finished
    model, task = load_planted_model(TASK), load_planted_task(TASK)
    pool = task.sample(model.tokenizer, SMALL["pool"], 0)
    truth = written(TASK)
    ablator = Ablator(model, task.sample(model.tokenizer, SMALL["held_out"], 2000))
    for method in ("attribution", "eap"):
        for n in SMALL["pairs"]:
            for seed in range(2):
                pairs = pool.subset(drawn(seed, n, len(pool)))
                scores = load_method(method)(model, pairs)
                row, expected = cell(result, method, n, seed), recover(scores.heads, truth)
                assert row["roc_auc"] == pytest.approx(expected.roc_auc)
                assert row["average_precision"] == pytest.approx(expected.average_precision)
                assert row["forwards"] == pytest.approx(scores.cost.forwards)
                assert (row["edge_roc_auc"] is None) == (method == "attribution")
                if n == min(SMALL["pairs"]):
                    curves = faithfulness_curves(ablator, scores.heads, seed=seed)
                    wanted = {"cmd": curves.cmd, "cpr": curves.cpr, "f_5": curves.f_at[5]}
                    assert {name: row[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
                else:
                    assert row["cmd"] is row["f_50"] is None


def test_circuits_that_run_alone_are_built_in_the_order_that_a_method_gives_for_it(tmp_path):
    name = "planted-or"  # arms of a gate count for more there than by what each does alone
    result = run_bench(plan(tasks=(name,), methods=("adaptive-patching",), pairs=(8,), seeds=1), tmp_path)
    row = cell(result, "adaptive-patching", 8, 0)
    model, task = load_planted_model(name), load_planted_task(name)
    pairs = task.sample(model.tokenizer, 16, 0).subset(drawn(0, 8, 16))
    method = load_method("adaptive-patching")
    scores, grown = method(model, pairs), method.nested(model, pairs)
    ablator = Ablator(model, task.sample(model.tokenizer, SMALL["held_out"], 2000))
    by_alone, by_heads = (faithfulness_curves(ablator, s, seed=0).cpr for s in (grown.heads, scores.heads))
    assert by_alone != pytest.approx(by_heads, abs=1e-2), "the two orders differ here"
    assert row["cpr"] == pytest.approx(by_alone, abs=1e-4)


def test_the_table_holds_every_cell_the_yardstick_and_both_summaries(finished):
    _, result = finished
    assert {row["method"] for row in result["cells"]} == {YARDSTICK, "attribution", "eap"}
    assert len(result["cells"]) == 3 * 2 * 2 and result["skipped"] == []
    line = next(row for row in result["table"] if row["method"] == "attribution" and row["n"] == 8)
    values = [cell(result, "attribution", 8, seed)["average_precision"] for seed in range(2)]
    spread = {"mean": np.mean(values), "least": min(values), "largest": max(values), "count": 2}
    assert line["average_precision"] == spread
    assert line["reference"] == f"{TASK}/written" and line["jaccard_bootstrap"] is not None
    (comparison,) = [row for row in result["comparisons"] if row["metric"] == "cmd" and row["n"] == 4]
    ours, against = ([cell(result, m, 4, s)["cmd"] for s in range(2)] for m in ("eap", "attribution"))
    assert comparison["method"] == "eap" and comparison["low"] <= comparison["difference"]
    assert comparison["difference"] == pytest.approx(np.mean(ours) - np.mean(against))
    json.dumps(result, allow_nan=False)


class _Kill:
    """A stage that interrupts after so many steps of progress."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, _name: str, _total: int) -> "_Kill":
        return self

    def __enter__(self):
        return self.advance

    def __exit__(self, *_exception) -> None:
        pass

    def advance(self, done: int) -> None:
        self.left -= done
        if self.left < 0:
            raise KeyboardInterrupt


def test_killed_runs_go_on_to_the_same_json(finished, tmp_path):
    kills = 0
    # from within the measuring of the reference, the pool and the cells
    for after in (25, 60, 95, 170, 220, 250, 330, 390):
        try:
            run_bench(plan(), tmp_path, stage=_Kill(after))
        except KeyboardInterrupt:
            kills += 1
        assert not list(tmp_path.rglob(".*")), "a temporary file was left behind"
    kept = files(tmp_path)
    resumed = run_bench(plan(), tmp_path)
    assert kills >= 5
    assert resumed == finished[1]
    after = files(tmp_path)
    finished_before = {name: text for name, text in kept.items() if "partial" not in name}
    assert finished_before.items() <= after.items(), "what was finished was written again"
    assert after == files(finished[0])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("eap/n4-seed1.json", lambda text: text[:200]),
        ("eap/n4-seed1.json", lambda text: text.replace(b'"forwards": ', b'"forwards": 9', 1)),
        ("attribution/pool.safetensors", lambda _text: b"{"),
    ],
)
def test_what_is_damaged_is_done_again_with_a_line_saying_so(copied, finished, file, damage):
    path, lines = copied / FOLDER / file, []
    path.write_bytes(damage(path.read_bytes()))
    again = run_bench(plan(), copied, say=lines.append)
    assert again == finished[1]
    assert [line for line in lines if "again" in line] == [f"{path} is damaged: done again"]


def test_cells_of_other_settings_or_an_older_version_are_done_again(copied, monkeypatch):
    lines: list[str] = []
    assert run_bench(plan(held_out=4), copied, say=lines.append)["plan"]["held_out"] == 4
    redone = [line for line in lines if "other settings (held_out)" in line]
    assert len(redone) == 3 * 2  # of the fewest pairs, whose circuits are run alone
    monkeypatch.setattr("interp.scores.eap.eap", replace(load_method("eap"), version=7))
    lines.clear()
    run_bench(plan(held_out=4), copied, say=lines.append)
    redone = [line for line in lines if "was made with other settings" in line]
    assert redone and all(f"{FOLDER}/eap/" in line for line in redone)


def test_more_seeds_and_pairs_leave_what_is_there(copied, finished):
    before = files(copied)
    more = run_bench(plan(seeds=3, pairs=(4, 8, 12)), copied)
    after = files(copied)
    assert all(after[name] == text for name, text in before.items() if "pool" not in name)
    assert cell(more, "attribution", 4, 1) == cell(finished[1], "attribution", 4, 1)
    assert len(more["cells"]) == 3 * 3 * 3


def test_a_method_that_refuses_is_left_out_and_named_and_other_numbers_of_pairs_are_run(tmp_path):
    # the dictionary of the code overlap is trained on 10 prompts; 4 pairs are 8
    lines, methods = [], ("attribution", "overlap")
    result = run_bench(plan(methods=methods, pairs=(4,), seeds=1), tmp_path / "few", say=lines.append)
    assert any("overlap: left out" in line for line in lines)
    assert {row["method"] for row in result["cells"]} == {YARDSTICK, "attribution"}
    more = plan(methods=methods, pairs=(4, 6), seeds=1)
    result = run_bench(more, tmp_path / "more")
    (skipped,) = result["skipped"]
    assert skipped["method"] == "overlap" and "with 4 pairs: " in skipped["why"]
    assert {row["n"] for row in result["cells"] if row["method"] == "overlap"} == {6}
    assert run_bench(more, tmp_path / "more") == result


def test_dear_methods_get_fewer_pairs_and_seeds_on_large_models_when_all_are_run():
    wanted = plan(methods=(), pairs=(4, 8, 16), seeds=5, pool=16)
    assert len(wanted.cells("attribution", 270)) == 15
    limit = load_method("acdc")
    assert wanted.cells("acdc", 270) == tuple(
        (n, s) for n in (4, 8, 16) if n <= limit.most_pairs for s in range(limit.most_seeds)
    )
    assert len(wanted.cells("acdc", 24)) == 15
    named = plan(methods=("acdc", "attribution"), pairs=(4, 8, 16), seeds=5, pool=16)
    assert len(named.cells("acdc", 270)) == 15


def test_the_yardstick_is_judged_by_the_other_pairs():
    rng = np.random.default_rng(0)
    heads = rng.normal(size=(12, 2, 3)) * 0.1 + np.array([[1.0, 0, 0], [0.5, 0, 0]])
    measured = ExactEffects("t/m", "t", "m", heads, None, np.full(12, 2.0), np.zeros(12), {})
    court = Court((ReferenceJudge("t/m", measured.members(), measured.effects()),), measured)
    scores, (judge,) = court.yardstick(5, seed=3)
    order = drawn(3, 12, 12)
    np.testing.assert_allclose(scores, heads[order[:5]].mean(0))
    np.testing.assert_allclose(judge.effects, heads[order[5:]].mean(0))
    assert (judge.truth == (np.abs(heads[order[5:]].mean(0)) >= 0.04)).all()
    assert court.yardstick(12, 0) is None
    by_layer = [(measured.n_layers - layer) / measured.n_layers for layer in range(measured.n_layers)]
    assert court.yardstick_forwards() == pytest.approx(2 + measured.n_heads * sum(by_layer))
    known = Court((ReferenceJudge("planted/written", measured.members(), measured.effects()),), measured)
    _, (judge,) = known.yardstick(5, seed=3)
    np.testing.assert_allclose(judge.effects, heads[order[5:]].mean(0))
    assert (judge.truth == measured.members()).all(), "what was written stays true"


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """Writes a prompt file of so many pairs: a task without a reference in the package."""
    monkeypatch.chdir(tmp_path)

    def write(indices: range) -> None:
        model, pairs = planted(TASK, 60, seed=3)
        write_prompt_file(pairs.subset(indices), "mine.json", model.tokenizer)

    return write


MINE = {"tasks": ("mine.json",), "models": (TASK,), "methods": ("attribution",), "pairs": (4,), "seeds": 1}


def test_a_damaged_reference_and_what_another_precision_left_are_measured_again(tmp_path, prompts):
    """A bench killed while it measured leaves what it has."""
    prompts(range(40))
    wanted, folder, lines = plan(**MINE), tmp_path / "bench", []
    with pytest.raises(KeyboardInterrupt):
        run_bench(wanted, folder, stage=_Kill(30), dtype="bfloat16")
    assert list(folder.glob("*/reference-n20.partial/*.begun"))
    first = run_bench(wanted, folder)
    [reference] = folder.glob("*/reference-n*[0-9].safetensors")
    reference.write_bytes(reference.read_bytes()[:100])
    assert run_bench(wanted, folder, say=lines.append) == first
    assert f"{reference}: damaged, measured again" in lines


def test_a_prompt_file_that_has_changed_is_measured_again(tmp_path, prompts):
    """The same name with other prompts: neither cells nor exact effects are those of before."""
    prompts(range(40))
    wanted, folder, lines = plan(**MINE), tmp_path / "bench", []
    first = run_bench(wanted, folder)
    reference = ExactEffects.load(next(folder.glob("*/reference-n20.safetensors")))
    assert reference.n_pairs == 20, "of 40 prompts 16 are the pool, and 20 of the others the reference"
    prompts(range(20, 60))
    again = run_bench(wanted, folder, say=lines.append)
    assert any("of other prompts, weights or precision" in line for line in lines)
    assert again == run_bench(wanted, tmp_path / "fresh")
    assert cell(again, "attribution", 4, 0)["spearman"] != cell(first, "attribution", 4, 0)["spearman"]


def test_a_short_prompt_file_is_shared_between_the_pool_and_the_judges(tmp_path, prompts):
    prompts(range(12))
    result = run_bench(plan(**MINE | {"pairs": (5,), "pool": 300}), tmp_path / "bench")
    assert cell(result, "attribution", 5, 0)["roc_auc"] is not None
    assert ExactEffects.load(next((tmp_path / "bench").glob("*/reference-*"))).n_pairs == 6
    with pytest.raises(InputError, match=r"has 12 pairs, and --pairs asks for 12: others are needed"):
        run_bench(plan(**MINE | {"pairs": (12,), "pool": 300}), tmp_path / "more")
