"""How threads wait for each other: a small discovery under each setting, alone and beside one busy process.

    python benchmarks/threads.py --rounds 3 > threads.json

Threads that spin while they wait are fast where every core is theirs, and lose whole time slices where one is not.
libgomp reads its settings once, when torch loads; the number of threads can be changed at any time. Each run is a
process of its own; settings take turns, so that what else the machine does falls on all of them.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

SETTINGS = {
    "torch's own": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
RUN = """
import time, torch, interp
model = interp.load_model("smollm2-135m-instruct")
from interp.runs.discover import find_circuit
begin = time.perf_counter()
find_circuit(model, "ioi", n=8, candidates=8)
print(time.perf_counter() - begin)
"""
BUSY = "while True: pass"


@contextlib.contextmanager
def beside(busy: bool) -> Iterator[None]:
    """With a process that keeps one core busy, or without."""
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def seconds(setting: dict[str, str]) -> float:
    apart = ("OMP_", "GOMP_", "MKL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=kept | setting, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "busy": []} for name in SETTINGS}
    for _ in range(rounds):
        for busy in (False, True):
            with beside(busy):
                for name, setting in SETTINGS.items():
                    found[name]["busy" if busy else "alone"].append(seconds(setting))
                    print(name, busy, found[name], file=sys.stderr)
    for times in found.values():
        times["median"] = {key: round(statistics.median(times[key]), 1) for key in ("alone", "busy")}
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg(), "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
