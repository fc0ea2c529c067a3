"""What each step of fitting codebooks buys: all heads of a model through codes, steps added one at a time.

::

    python benchmarks/codebook_fit.py                       # the table of docs/codebooks.md
    python benchmarks/codebook_fit.py --selections cosine --k 1 --model gpt2

Every row is a fit of its own in a folder that is kept, so a killed run goes on where it stopped. The last row is the
default of ``interp codebook fit``. One seed; intervals are over held-out blocks, so they hold for these books.
"""

import argparse
from pathlib import Path

import interp.bottlenecks.codebook as codebook
from interp import DEFAULT_MODEL
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.evaluation.codebook_quality import quality_of_folder
from interp.models import load_model
from interp.progress import bar
from interp.text import load_text

STEPS = {
    "k-means on z, in the plain model": {"by_output": False, "sequential": False, "refits": 0},
    "+ least squares": {"by_output": False, "sequential": False, "refits": codebook.REFITS},
    "+ compared by output": {"by_output": True, "sequential": False, "refits": codebook.REFITS},
    "+ fitted behind the earlier books": {"by_output": True, "sequential": True, "refits": codebook.REFITS},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--data", default="self")
    parser.add_argument("--tokens", type=int, default=11_000)
    parser.add_argument("--eval-tokens", type=int, default=4096)
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--selections", nargs="+", default=["matching_pursuit", "cosine"])
    parser.add_argument("--folder", type=Path, default=Path("runs/steps"))
    options = parser.parse_args()

    model = load_model(options.model)
    text = load_text(options.data, model, n_tokens=options.tokens, stage=bar)
    print(
        f"{options.model}, all heads, {options.codes} codes a head, {text.n_tokens} tokens of {text.spec}\n"
    )
    print("| selection | k | step | CE increase, self [95 %] | stdlib [95 %] |\n|---|---|---|---|---|")
    for selection in options.selections:
        for k in options.k:
            for number, (step, settings) in enumerate(STEPS.items()):
                if k == 1 and step == "+ least squares":
                    continue  # of one code a vector it is k-means once more
                cells = _increases(model, text, selection, k, number, settings, options)
                print(f"| {selection} | {k} | {step} | {' | '.join(cells)} |", flush=True)


def _increases(model, text, selection, k, number, settings, options) -> list[str]:
    codebook.REFITS = settings["refits"]
    config = FitConfig(
        n_codes=options.codes,
        k=k,
        selection=selection,
        by_output=settings["by_output"],
        sequential=settings["sequential"],
    )
    folder = options.folder / f"{selection}-k{k}-{number}"
    books = fit_codebooks(model, ["heads"], text, folder, config, stage=bar)
    found = quality_of_folder(
        model, books, ["self", "stdlib"], n_tokens=options.eval_tokens, control_blocks=0, stage=bar
    )
    rows = (text["rows"][1] for text in found["texts"])
    return [
        f"{r['ce_increase']:+.3f} [{r['ce_increase_low']:+.2f}, {r['ce_increase_high']:+.2f}]" for r in rows
    ]


if __name__ == "__main__":
    main()
