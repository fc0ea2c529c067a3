"""A training run killed at twenty random moments, beside the same run left alone. Four minutes of one core.

    python -m benchmarks.train_kills [--kills 20] [--seed 0]

A planted model and small books. Each kill is SIGKILL at a moment drawn evenly, counted from the first step of a
process. Prints how many steps were done twice after each, and the largest difference between the losses of both runs.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import arguments

EVERY, STEPS, BATCH = 5, 400, 4
MODEL = "planted-induction"


def parts(folder: Path):
    """Model, start and text, the same in every process."""
    import torch

    from interp.bottlenecks.fit import FitConfig, fit_codebooks
    from interp.models import load_model
    from interp.text import TextBlocks

    torch.set_num_threads(1)
    model = load_model(MODEL)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (STEPS * BATCH, 16), generator=generator)
    text = TextBlocks(tokens, "random", "train", 0, len(tokens))
    config = FitConfig(n_codes=32, k=2, selection="matching_pursuit")
    return model, fit_codebooks(model, ["heads"], text, folder / "start", config), text


def child(folder: Path, name: str) -> None:
    """Train, and note in a file when training begins and each step."""
    from interp.training import TrainConfig, train_codebooks

    with (folder / f"{name}.log").open("a", buffering=1) as log:

        @contextlib.contextmanager
        def noted(_name: str, _total: int):
            yield lambda done, note="": log.write(f"step {note}\n" if note else f"begin {done}\n")

        model, start, text = parts(folder)
        config = TrainConfig(checkpoint_every=EVERY, batch_size=BATCH, replace_every=20)
        train_codebooks(model, start, text, folder / name, config, stage=noted)


def begin(folder: Path, name: str) -> tuple[subprocess.Popen, int]:
    """A process that has begun to train, or is done; and how many lines its log had before."""
    log = folder / f"{name}.log"
    log.touch()
    before = len(log.read_text().splitlines())
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.train_kills", "--child", str(folder), name])
    while process.poll() is None and "begin" not in "".join(log.read_text().splitlines()[before:]):
        time.sleep(0.01)
    return process, before


def main() -> None:
    options = arguments(__doc__, kills=20, seed=0, child={"nargs": 2})
    if options.child:
        child(Path(options.child[0]), options.child[1])
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts(folder)
        alone, _ = begin(folder, "alone")
        then = time.perf_counter()
        if alone.wait():
            sys.exit("the run that nobody killed failed")
        lasts = time.perf_counter() - then
        print(f"alone: {STEPS} steps in {lasts:.1f} s")
        reached, kills, again = 0, 0, []
        while True:
            process, before = begin(folder, "killed")
            if kills < options.kills:
                time.sleep(draw.uniform(0, 1.2 * lasts / options.kills))
                process.send_signal(signal.SIGKILL)
            process.wait()
            lines = (folder / "killed.log").read_text().splitlines()[before:]
            if not lines:
                if process.returncode:
                    sys.exit(f"after kill {kills} the run did not go on")
                break  # the last kill came after everything was written
            first = int(lines[0].split()[1])
            if kills:
                again.append(max(0, reached - first))
            reached = first + sum(line.startswith("step") for line in lines)
            if process.returncode == 0:
                break
            kills += 1
            print(f"kill {kills}: at step {reached}")
        losses = [json.loads((folder / run / "training.json").read_text())["loss"] for run in ("alone", "killed")]
        apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
        print(f"{kills} kills; steps done twice after each: {again}, at most {max(again)} (interval {EVERY})")
        print(f"largest difference in loss over {len(losses[0])} steps: {apart:.1e}")
        if apart > 1e-6 or max(again) > EVERY:
            sys.exit("a killed run lost something")


if __name__ == "__main__":
    main()
