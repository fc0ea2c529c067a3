"""The finite-state experiment, run from the root of the repository.

    python -m benchmarks.tokfsm run --scale cpu --seed 0    # train, measure, compare; resumes where it was killed
    python -m benchmarks.tokfsm seeds                       # the kept runs of scale cpu, and their mean
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/pull-seed*.json     # the recipe before
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/pull-quick-*.json   # 10 M tokens by that
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/long-*.json         # 38 M tokens by that
    python -m benchmarks.tokfsm seeds benchmarks/results/tokfsm/adam-*.json         # 38 M by one earlier still
    python -m benchmarks.tokfsm seeds runs/tokfsm-*                                 # folders of runs of one scale

The interval over seeds is Student's, 95 %: how far the mean over all seeds may be from this one. That of a single run
is over its sequences, and over states where values are of states. Of two seeds there is none.
"""

import argparse
import shlex
from pathlib import Path

from benchmarks.common import RESULTS
from benchmarks.tokfsm.folder import save
from benchmarks.tokfsm.recipe import SCALES, recipe
from benchmarks.tokfsm.reproduce import measure, train
from benchmarks.tokfsm.table import print_seeds, summary
from interp.files import read_json, write_json
from interp.models import parse_device
from interp.progress import bar


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokfsm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train the finite-state model with codebooks, measure it, compare")
    run.add_argument("--scale", choices=SCALES, default="cpu", help="10 M, 20 M or 2.6 G tokens (a GPU)")
    run.add_argument("--seed", type=int, default=0, help="of weights and text")
    run.add_argument("--tokens", type=int, help="train on so many in all (default: the scale's)")
    run.add_argument("--out", type=Path, help="folder to write (default: runs/tokfsm-SCALE-seedN)")
    run.add_argument("--device", help="cpu, cuda, mps (default: the fastest there is)")
    seeds = commands.add_parser("seeds", help="print each run and their mean; runs nothing")
    seeds.add_argument("runs", type=Path, nargs="*", help="result files, or folders with a result.json")
    seeds.add_argument("--summary", type=Path, help="JSON of the shares right, which the page Evaluation draws")
    given = parser.parse_args(words)
    if given.command == "seeds":
        compare(parser, given)
        return
    wanted = recipe(given.scale, seed=given.seed, tokens=given.tokens)
    folder = given.out or Path("runs") / f"tokfsm-{given.scale}-seed{given.seed}"
    training = train(wanted, folder, device=str(parse_device(given.device)), stage=bar)
    command = ["python", "-m", "benchmarks.tokfsm", "run", "--scale", given.scale, "--seed", str(given.seed)]
    command += [] if given.tokens is None else ["--tokens", str(given.tokens)]
    command += [] if given.out is None else ["--out", str(given.out)]
    print_seeds([save(training, measure(training, stage=bar), folder, shlex.join(command))])
    print(f"saved    {folder}")


def compare(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Several seeds of one recipe."""
    paths = [run / "result.json" if run.is_dir() else run for run in given.runs]
    results = [read_json(path) for path in paths or (RESULTS / "tokfsm").glob("cpu-*.json")]
    recipes = [result["recipe"] | {"seed": None} for result in results]
    for key in ("scale", *sorted(set().union(*recipes) - {"scale"})):
        if len(values := {str(recipe.get(key)) for recipe in recipes}) > 1:
            parser.error(f"runs with {key} {', '.join(sorted(values))}: give those of one recipe")
    results.sort(key=lambda result: result["recipe"]["seed"])
    if given.summary is not None:
        write_json(given.summary, summary(results))
    print_seeds(results)


if __name__ == "__main__":
    main()
