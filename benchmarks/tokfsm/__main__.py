"""The finite-state experiment, run from the root of the repository.

::

    python -m benchmarks.tokfsm run --scale cpu --seed 0    # train, measure, compare; resumes where it was killed
    python -m benchmarks.tokfsm seeds                       # the kept runs of scale cpu, and their mean
"""

import argparse
import shlex
from pathlib import Path

from benchmarks.tokfsm import seeds
from benchmarks.tokfsm.folder import PAGE, save
from benchmarks.tokfsm.recipe import SCALES, recipe
from benchmarks.tokfsm.reproduce import measure, train
from interp.models import parse_device
from interp.progress import bar


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokfsm", description=__doc__.partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train the finite-state model with codebooks, measure it, compare")
    run.add_argument("--scale", choices=SCALES, default="cpu", help="10 M, 20 M or 2.6 G tokens (a GPU)")
    run.add_argument("--seed", type=int, default=0, help="of weights and text")
    run.add_argument("--tokens", type=int, help="train on so many in all (default: the scale's)")
    run.add_argument("--out", type=Path, help="folder to write (default: runs/tokfsm-SCALE-seedN)")
    run.add_argument("--device", help="cpu, cuda, mps (default: the fastest there is)")
    seeds.add_arguments(
        commands.add_parser("seeds", help="print each run and their mean", description=seeds.__doc__)
    )
    given = parser.parse_args(words)
    if given.command == "seeds":
        seeds.main(parser, given)
        return
    wanted = recipe(given.scale, seed=given.seed, tokens=given.tokens)
    folder = given.out or Path("runs") / f"tokfsm-{given.scale}-seed{given.seed}"
    training = train(wanted, folder, device=str(parse_device(given.device)), stage=bar)
    command = ["python", "-m", "benchmarks.tokfsm", "run", "--scale", given.scale, "--seed", str(given.seed)]
    command += [] if given.tokens is None else ["--tokens", str(given.tokens)]
    command += [] if given.out is None else ["--out", str(given.out)]
    save(training, measure(training, stage=bar), folder, shlex.join(command))
    print((folder / PAGE).read_text(encoding="utf-8"))
    print(f"saved    {folder}")


if __name__ == "__main__":
    main()
