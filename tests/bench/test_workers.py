"""A bench and a reference on workers and in shards: the same files as here, byte for byte, and nothing done twice."""

import json
from pathlib import Path

import pytest

from interp.bench.run import run_bench
from interp.circuits.references import ExactEffects
from interp.executor import Shard, Workers
from interp.runs.measure import measure_reference
from tests.bench.test_bench import TASK, files, plan

RAY = Workers("ray")
# one on the pool, one cell by cell, one that refuses four pairs
METHODS = ("attribution", "random", "overlap")
TASKS = (TASK, "planted-induction")
PLAN = {"tasks": TASKS, "methods": METHODS, "pairs": (4,)}
PAIRS = {"n": 40, "batch_size": 4}


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("serial")
    return folder, run_bench(plan(**PLAN), folder)


@pytest.fixture(scope="module")
def reference() -> ExactEffects:
    return measure_reference(TASK, TASK, **PAIRS)


def jobs_in(log: Path) -> list[str]:
    return [json.loads(line)["job"] for line in log.read_text().splitlines()]


def assert_same(exact_effects: ExactEffects, wanted: ExactEffects, folder: Path) -> None:
    """By the bytes of their files."""
    for name, reference in (("found", exact_effects), ("wanted", wanted)):
        reference.save(folder / f"{name}.safetensors")
    assert (folder / "found.safetensors").read_bytes() == (folder / "wanted.safetensors").read_bytes()
    assert abs(exact_effects.effects()).max() > 0.1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_bench_on_workers_leaves_the_same_files(serial, tmp_path):
    folder, wanted = serial
    assert run_bench(plan(**PLAN), tmp_path, workers=RAY) == wanted
    assert files(tmp_path) == files(folder)
    assert sorted(jobs_in(tmp_path / "log.jsonl")) == sorted(jobs_in(folder / "log.jsonl"))


def test_shards_of_a_bench_wait_for_references_and_are_gathered(serial, tmp_path):
    folder, wanted = serial
    shards = [Shard(1, 2), Shard(2, 2)]
    messages: dict[str, list[str]] = {"first": [], "second": []}
    for round_, lines in messages.items():
        for shard in shards:
            whole = plan(**PLAN)
            assert run_bench(whole, tmp_path, shard=shard, say=lines.append) is None, round_
    waited = [line for line in messages["first"] if "waits for the parts of its reference" in line]
    assert waited and not any("waits" in line for line in messages["second"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert run_bench(plan(**PLAN), tmp_path) == wanted
    assert {path: path.stat().st_mtime_ns for path in before} == before, "gathering makes nothing again"
    assert files(tmp_path) == files(folder)


def test_shards_of_a_reference_are_gathered_and_a_damaged_part_is_made_again(reference, tmp_path):
    options = PAIRS | {"checkpoint": tmp_path / "parts"}
    assert measure_reference(TASK, TASK, **options, shard=Shard(1, 2)) is None
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert measure_reference(TASK, TASK, **options, shard=Shard(2, 2)) is not None
    damaged, *_ = first
    damaged.write_bytes(b"noise")
    assert_same(measure_reference(TASK, TASK, **options), reference, tmp_path)
    again = {path for path, when in first.items() if path.stat().st_mtime_ns != when}
    assert again == {damaged}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "elsewhere")
def test_the_command_line_sends_work_to_a_cluster_or_says_in_one_line_why_not(command):
    words = ("reference", TASK, "-n", "40", "--batch-size", "4", "--out")
    assert command(*words, "there.safetensors", "--workers", "ray").code == 0
    assert command(*words, "here.safetensors").code == 0
    assert Path("there.safetensors").read_bytes() == Path("here.safetensors").read_bytes()
    assert abs(ExactEffects.load("here.safetensors").effects()).max() > 0.1
    assert len(jobs_in(Path("there.log.jsonl"))) >= 10
    assert "same command without --shard" in command(*words, "parts.safetensors", "--shard", "1/8").out
    for wrong, part in (
        (("--workers", "slurm"), "use serial, ray or ray://HOST:PORT"),
        (("--workers", "ray", "--gpus-per-worker", "2"), "the cluster has 2 CPU, 0 GPU"),
        (("--shard", "3/2"), "write I/N"),
    ):
        failed = command(*words, "other.safetensors", *wrong)
        assert failed.code == 2 and part in failed.error
