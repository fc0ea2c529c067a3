"""Discoveries over tasks, methods and seeds: what one at a time would find, on workers too."""

import json
from pathlib import Path

import pytest

from interp import find_circuit
from interp.bench.sweep import Sweep, run_sweep, stability
from interp.errors import InputError
from interp.executor import Shard, Workers
from interp.runs.discover import CircuitSearch
from interp.runs.run import Run
from interp.tasks import write_prompt_file
from tests.oracles import planted

TASK = "planted-inhibition"
pytestmark = pytest.mark.usefixtures("elsewhere")
WANTED = {
    "tasks": ["planted-induction", "planted-inhibition"],
    "methods": ["attribution"],
    "seeds": [0, 1],
    "options": {"n": 8, "candidates": 6},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(WANTED))
    return path


def test_runs_are_those_of_single_discoveries_and_are_kept(file, tmp_path):
    cells = Sweep.load(file).cells()
    rows = run_sweep(cells, tmp_path / "out")
    assert [(row["task"], row["seed"]) for row in rows] == [(task, seed) for task in WANTED["tasks"] for seed in (0, 1)]
    for row in rows:
        alone = find_circuit(row["task"], row["task"], method="attribution", seed=row["seed"], **WANTED["options"])
        assert found_in(tmp_path / "out", row) == alone.model_dump(exclude={"seconds"})
        assert row["heads"] == [head.site for head in alone.circuit.heads] != []
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/run.json")}
    assert run_sweep(cells, tmp_path / "out") == rows
    assert {path: path.stat().st_mtime_ns for path in made} == made and len(made) == 4
    [first, _] = stability(rows)
    assert first["heads"] == {"a0.h3": 2, "a1.h1": 2, "a2.h4": 2} and first["jaccard"] == 1.0


def test_a_run_of_other_prompts_or_numbers_is_not_taken_for_what_is_asked(tmp_path):
    model, pairs = planted(TASK, 10)
    write_prompt_file(pairs, "mine.json", model.tokenizer)
    options = {"n": 8, "candidates": 3}
    sweep = Sweep(tasks=["mine.json"], models=[TASK], methods=["attribution"], options=options)
    [first] = run_sweep(sweep.cells(), tmp_path / "out")
    kept = json.loads(Path("mine.json").read_text())
    kept["prompts"] = kept["prompts"][2:]
    Path("mine.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match="another request"):
        run_sweep(sweep.cells(), tmp_path / "out")
    [second] = run_sweep(sweep.cells(), tmp_path / "new")
    assert second["gap"] != first["gap"]
    with pytest.raises(InputError, match="another request"):
        run_sweep(sweep.cells(), tmp_path / "new", dtype="bfloat16")


def test_own_code_that_was_edited_is_run_again():
    code = (
        "import numpy as np\nfrom interp.scores.method import Scores\n"
        "def mine(context):\n    scores = np.zeros((context.model.cfg.n_layers, context.model.cfg.n_heads))\n"
        "    scores[{place}] = 1\n    return Scores(scores, signed=False)\n"
    )
    asked = []
    for place in ("0, 1", "1, 2"):
        Path("mine.py").write_text(code.format(place=place))
        search = CircuitSearch(TASK, method="mine.py:mine", n=8)
        asked.append((search.request(TASK, "float32"), search.method.name))
    (first, name), (second, again) = asked
    assert name == again and first != second and first | {"code": second["code"]} == second


def found_in(folder: Path, row: dict) -> dict:
    return Run.load(folder / row["folder"]).model_dump(exclude={"seconds"})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_find_the_same(file, tmp_path):
    cells = Sweep.load(file).cells()
    here = run_sweep(cells, tmp_path / "here")
    there = run_sweep(cells, tmp_path / "there", workers=Workers("ray"))
    assert there == here and all(row["heads"] for row in there)
    for row in here:
        assert found_in(tmp_path / "there", row) == found_in(tmp_path / "here", row)


def test_shards_are_gathered_by_the_command(file, command):
    for shard in ("1/2", "2/2"):
        done = command("sweep", str(file), "--out", "out", "--shard", shard)
        assert done.code == 0 and "without --shard" in done.out
    done = command("sweep", str(file), "--out", "out")
    assert done.code == 0 and "a2.h4 2" in done.out
    assert len(json.loads(Path("out/sweep.json").read_text())) == 4


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"tasks": "ioi"}, "tasks: Input should be a valid array"),
        (
            {"task": ["ioi"]},
            "task: Extra inputs are not permitted (a sweep has tasks, models, methods, seeds, options)",
        ),
        ({"options": {"pairs": 3}}, "option 'pairs'"),
        ({"options": {"candidates": 0}}, "candidates 0"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, changes, part):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(WANTED | changes))
    with pytest.raises(InputError) as error:
        Sweep.load(path).cells()
    assert part in str(error.value)


def test_what_is_refused_is_a_row_and_all_refused_an_error(tmp_path):
    """A task the other way about: its clean prompts score less than its corrupt ones."""
    model, pairs = planted(TASK, 8)
    write_prompt_file(pairs, "swapped.json", model.tokenizer)
    text = Path("swapped.json").read_text().replace('"clean"', '"?"').replace("corrupt", "clean")
    Path("swapped.json").write_text(text.replace("?", "corrupt"))
    options = {"n": 8, "candidates": 3}
    sweep = Sweep(tasks=[TASK, "swapped.json"], models=[TASK], methods=["attribution"], options=options)
    good, bad = run_sweep(sweep.cells(), tmp_path / "out")
    assert good["heads"] and "heads" not in bad and "exchanged" in bad["left_out"]
    assert run_sweep(sweep.cells(), tmp_path / "out", shard=Shard(1, 2)) is None
    alone = Sweep(tasks=["swapped.json"], models=[TASK], methods=["attribution"], options=options)
    with pytest.raises(InputError, match="exchanged"):
        run_sweep(alone.cells(), tmp_path / "none")
