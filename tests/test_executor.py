"""Jobs on the workers of a cluster leave what they leave here; what fails is tried again, then named."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path

import pytest

from interp.errors import InputError, JobsFailedError
from interp.executor import SERIAL, Job, Shard, Steps, Work, Workers, checked, run, run_work
from interp.files import write_json

RAY = Workers("ray")


def on_ray(test):
    return pytest.mark.ray(pytest.mark.usefixtures("ray_cluster")(test))


class Desk:
    """Loads something dear, once for a place."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __getstate__(self) -> dict:
        return {"loaded": []}

    def square(self, n: int, folder: Path, progress) -> dict:
        place = str(n % 2)
        if place not in self.loaded[-1:]:
            self.loaded.append(place)
        progress.share(0.5)
        progress.say(f"at {n}")
        if n < 0:
            raise InputError(f"{n}: it must not be negative")
        write_json(folder / f"{n}.json", n**2)
        threads = os.environ.get("OMP_NUM_THREADS")
        return {"n": n, "process": os.getpid(), "loaded": list(self.loaded), "threads": threads}

    def slow_square(self, n: int, folder: Path, _progress) -> None:
        """Looks first whether it is done; leaves a note of each time that it was begun."""
        if not (folder / f"{n}.json").exists():
            (folder / f"{n}-{time.time_ns()}.begun").touch()
            time.sleep(0.2)
            write_json(folder / f"{n}.json", n**2)

    def once_fatal(self, mark: Path, how: str, _progress) -> str:
        """Fails when it is run for the first time."""
        if not mark.exists():
            mark.write_text("")
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device", str(mark))
        return "done"

    def always_full(self, _progress) -> None:
        raise OSError(28, "No space left on device", "/full")


def squares(folder: Path, numbers) -> deque[Job]:
    return deque(Job(f"square {n}", Desk.square, (n, folder), (str(n % 2),), 10) for n in numbers)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_jobs_here_run_in_order_with_those_that_follow_before_the_rest(tmp_path):
    jobs, steps, messages, names = squares(tmp_path, range(3)), [], [], []
    for job, _ in run(Desk(), jobs, advance=steps.append, say=messages.append, log=tmp_path / "log.jsonl"):
        names.append(job.name)
        if job.name == "square 0":
            jobs.appendleft(Job("square 7", Desk.square, (7, tmp_path), (), 10))
    assert names == ["square 0", "square 7", "square 1", "square 2"]
    assert sum(steps) == 40 and steps == [5] * 8 and messages == ["at 0", "at 7", "at 1", "at 2"]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["job"] for line in log] == names and all(line["process"] == os.getpid() for line in log)


def test_errors_of_users_are_results_and_others_end_the_work_here(tmp_path):
    [(_, refused)] = run(Desk(), squares(tmp_path, [-1]))
    assert isinstance(refused, InputError)
    jobs = deque([Job("full", Desk.always_full), *squares(tmp_path, [1])])
    with pytest.raises(OSError, match="No space left"):
        list(run(Desk(), jobs))
    assert not contents(tmp_path)


def test_work_goes_on_from_what_its_jobs_and_parts_gave_and_tells_all_its_steps(tmp_path):
    begun: list[str] = []

    def job(n: int) -> Job:
        return Job(f"square {n}", Desk.square, (n, tmp_path), (), 10)

    def part(n: int) -> Steps:
        begun.append(f"part {n}")
        [first] = checked((yield [job(n)]))
        others = yield [job(first["n"] + 10), job(first["n"] + 20)]
        return [n, *(other["n"] for other in others)]

    def nothing() -> Steps:
        assert (yield []) == []
        return "nothing"

    def whole() -> Steps:
        results = yield [Work(part(1), 40), Work(nothing(), 5), Work(part(-1), 40), Work(part(2), 40), job(3)]
        return [str(result) if isinstance(result, InputError) else result for result in results]

    steps, log = [], tmp_path / "log.jsonl"
    result = run_work(Desk(), Work(whole(), 150), contextlib.nullcontext(steps.append), log=log)
    assert result[:2] == [[1, 11, 21], "nothing"] and result[3] == [2, 12, 22] and result[4]["n"] == 3
    assert "must not be negative" in result[2], "what a part refuses is its result"
    assert sum(steps) == 150 and begun == ["part 1", "part -1", "part 2"]
    order = [json.loads(line)["job"] for line in log.read_text().splitlines()]
    assert order == [f"square {n}" for n in (1, 11, 21, 2, 12, 22, 3)], "what follows comes first"
    with pytest.raises(InputError, match="negative"):
        run_work(Desk(), Work(part(-2), 40), contextlib.nullcontext(steps.append))
    both = Work.all([Work(part(n), 30) for n in (1, 2)])
    assert run_work(Desk(), both, contextlib.nullcontext(steps.append)) == [[1, 11, 21], [2, 12, 22]]


def test_shards_share_the_jobs():
    shards = [Shard.parse(f"{i}/3") for i in (1, 2, 3)]
    assert [[n for n in range(7) if shard.takes(n)] for shard in shards] == [[0, 3, 6], [1, 4], [2, 5]]
    for wrong in ("0/3", "4/3", "2", "a/b", "-1/2"):
        with pytest.raises(InputError, match="write I/N"):
            Shard.parse(wrong)
    for wrong in ("slurm", "ray://", "ray://host", "ray://host:port"):
        with pytest.raises(InputError, match="use serial, ray or ray://HOST:PORT"):
            Workers(wrong)


def test_without_ray_or_a_cluster_it_is_one_line(monkeypatch):
    for workers, address in ((Workers("ray://127.0.0.1:1"), None), (RAY, "127.0.0.1:1")):
        with monkeypatch.context() as patch:
            # another test of this process may have a cluster
            patch.setattr("ray.is_initialized", lambda: False)
            if address:
                patch.setenv("RAY_ADDRESS", address)
            with pytest.raises(InputError, match=r"nothing answers at 127.0.0.1:1"):
                list(run(Desk(), squares(Path(), [1]), workers=workers))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"not installed here: pip install 'interp-codes\[ray\]'"):
        list(run(Desk(), squares(Path(), [1]), workers=RAY))


@on_ray
def test_workers_leave_the_same_files_load_little_and_tell_what_jobs_say(tmp_path):
    for folder, workers in (("here", SERIAL), ("there", RAY)):
        (tmp_path / folder).mkdir()
        jobs, steps, messages = squares(tmp_path / folder, range(-1, 8)), [], []
        options = {"workers": workers, "advance": steps.append, "say": messages.append}
        results = {job.name: result for job, result in run(Desk(), jobs, **options)}
        assert sum(steps) == 90 and sorted(messages) == [f"at {n}" for n in range(-1, 8)]
        refused = results.pop("square -1")
        assert isinstance(refused, InputError) and "-1" in str(refused)
    assert contents(tmp_path / "here") == contents(tmp_path / "there") != {}
    assert sorted(result["n"] for result in results.values()) == list(range(8))
    processes = {result["process"] for result in results.values()}
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes
    assert all(len(result["loaded"]) <= 2 for result in results.values()), "what is loaded is used again"
    assert {result["threads"] for result in results.values()} == {"1"}


@on_ray
def test_what_fails_once_is_done_by_another_worker_and_what_fails_always_is_named_in_the_end(tmp_path):
    once = [Job(how, Desk.once_fatal, (tmp_path / how, how)) for how in ("killed", "disk full")]
    jobs = deque([*once, Job("always full", Desk.always_full), *squares(tmp_path, range(4))])
    log, results = tmp_path / "log.jsonl", {}
    with pytest.raises(
        JobsFailedError, match=r"1 jobs failed 3 times.*always full: .*No space left on device"
    ) as error:
        results.update((job.name, result) for job, result in run(Desk(), jobs, workers=RAY, log=log))
    assert "\n" not in str(error.value) and len(contents(tmp_path)) == 4
    assert len(results) == 6 and results["killed"] == results["disk full"] == "done"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    failed = {line["job"]: line["failure"] for line in lines if "failure" in line}
    assert failed.keys() == {"killed", "disk full", "always full"}
    assert len(lines) == 6 + 2 + 3, "nothing but the job in hand was done twice"
    assert "worker died" in failed["killed"] and "No space left on device" in failed["disk full"]


@pytest.mark.ray
def test_what_a_killed_driver_had_done_is_not_done_again(ray_cluster, tmp_path):
    """A process of its own that finds the cluster by its address, killed in the middle; then this one."""
    script = (
        "from tests.test_executor import *\n"
        f"list(run(Desk(), deque(slow_squares(Path({str(tmp_path)!r}))), workers=RAY))"
    )
    environment = os.environ | {"RAY_ADDRESS": ray_cluster.address}
    root = Path(__file__).parents[1]  # where workers find this file too
    driver = subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=root)
    while driver.poll() is None and len(contents(tmp_path)) < 4:
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    before = contents(tmp_path)
    assert 4 <= len(before) < 30
    list(run(Desk(), deque(slow_squares(tmp_path)), workers=RAY))
    assert contents(tmp_path) == {f"{n}.json": f"{n**2}\n".encode() for n in range(30)}
    begun = Counter(path.name.partition("-")[0] for path in tmp_path.glob("*.begun"))
    assert len(begun) == 30 and begun.total() <= 30 + 2, "no more than the jobs in hand were begun twice"
    assert all(begun[name.removesuffix(".json")] == 1 for name in before)


def slow_squares(folder: Path) -> list[Job]:
    return [Job(f"square {n}", Desk.slow_square, (n, folder)) for n in range(30)]


@on_ray
def test_a_cluster_without_room_for_a_worker_and_a_folder_that_is_not_shared_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"a worker needs 1 CPU, 3 GPU, and the cluster has 2 CPU, 0 GPU"):
        list(run(Desk(), squares(tmp_path, [1]), workers=Workers("ray", gpus=3.0)))
    monkeypatch.setattr("os.getcwd", lambda: "/on/my/laptop")
    with pytest.raises(InputError, match=r"there is no folder /on/my/laptop: workers need storage that all"):
        list(run(Desk(), squares(tmp_path, [1]), workers=RAY))
