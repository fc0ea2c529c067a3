"""What workers cost: two of Ray beside two plain processes that share the same jobs, and the overhead of a job.

    python -m benchmarks.workers --task planted-backup -n 1600 --rounds 3
    python -m benchmarks.workers --task ioi -n 16 --batch-size 2 --rounds 2
    python -m benchmarks.workers --seconds 1 --jobs 20    # jobs that only wait, in place of a reference

Both sides measure one reference with one thread a process and pay for starting their processes, but not the cluster.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import deque
from pathlib import Path

from benchmarks.common import arguments, timed

PLAIN = """
import sys
from pathlib import Path
from interp.executor import Shard
from interp.runs.measure import measure_reference
task, model, n, batch_size, folder, shard = sys.argv[1:]
options = dict(n=int(n), batch_size=int(batch_size), checkpoint=Path(folder))
measure_reference(task, model, **options, shard=Shard.parse(shard))
"""


def nap(_desk: None, seconds: float, _told: object) -> None:
    time.sleep(seconds)


def main() -> None:
    args = arguments(__doc__, task="planted-backup", n=1600, batch_size=16, rounds=3, seconds=float, jobs=20)
    os.environ["OMP_NUM_THREADS"] = "1"
    import ray

    from interp.executor import RAY_SETTINGS

    ray.init(num_cpus=2, object_store_memory=100_000_000, **RAY_SETTINGS)
    measurements = waiting(args.jobs, args.seconds) if args.seconds else reference(args)
    print(json.dumps({"load": os.getloadavg(), "cores": os.cpu_count()} | measurements, indent=1))


def waiting(n: int, seconds: float) -> dict:
    """Seconds of all jobs on two workers that have started, over those that they wait."""
    from interp.executor import Job, Workers, run

    ends = []
    jobs = deque(Job(f"job {i}", nap, (seconds,)) for i in range(n + 2))
    for _ in run(None, jobs, workers=Workers("ray")):
        ends.append(time.perf_counter())
    started = ends[1]  # both workers have done one
    return {"jobs": n, "overhead a job": round((ends[-1] - started) * 2 / (n * seconds) - 1, 4)}


def reference(args: Namespace) -> dict:
    from interp.executor import Workers
    from interp.runs.discover import default_model
    from interp.runs.measure import measure_reference
    from interp.tasks import load_task

    model = default_model(load_task(args.task))
    taken: dict[str, list[float]] = {"plain": [], "ray": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            words = [args.task, model, str(args.n), str(args.batch_size), f"{folder}/plain"]
            options = {"n": args.n, "batch_size": args.batch_size, "checkpoint": Path(folder) / "ray"}

            def plain(words: list[str] = words) -> None:
                both = [subprocess.Popen([sys.executable, "-c", PLAIN, *words, f"{i}/2"]) for i in (1, 2)]
                assert [process.wait() for process in both] == [0, 0]

            taken["plain"].append(timed(plain).clock)
            ours = timed(lambda: measure_reference(args.task, model, **options, workers=Workers("ray")))  # noqa: B023
            taken["ray"].append(ours.clock)
        print(taken, file=sys.stderr)
    ratios = [plain / ours for plain, ours in zip(taken["plain"], taken["ray"], strict=True)]
    return {"task": args.task, "pairs": args.n, "seconds": taken, "ray's share": statistics.median(ratios)}


if __name__ == "__main__":
    main()
