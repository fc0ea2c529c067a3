"""What each step of fitting codebooks buys: all heads of a model through codes, steps added one at a time.

    python -m benchmarks.codebook_fit                       # the table of benchmarks/REPORT.md
    python -m benchmarks.codebook_fit --selections cosine --k 1 --model gpt2

Every row is a fit of its own in a folder that is kept, so a killed run goes on where it stopped. The last row is the
default of ``interp codebook fit``. One seed; intervals are over held-out blocks, so they hold for these books.
"""

from pathlib import Path

import interp.bottlenecks.codebook as codebook
from benchmarks.codebook_curve import increase
from benchmarks.common import arguments
from interp import DEFAULT_MODEL, load_model
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.evaluation.codebook_quality import quality_of_folder
from interp.progress import bar
from interp.text import load_text

STEPS = {
    "k-means on z, in the plain model": (0, {"by_output": False, "sequential": False}),
    "+ least squares": (codebook.REFITS, {"by_output": False, "sequential": False}),
    "+ compared by output": (codebook.REFITS, {"by_output": True, "sequential": False}),
    "+ fitted behind the earlier books": (codebook.REFITS, {"by_output": True, "sequential": True}),
}
"""Rounds of least squares, and how codebooks are fitted."""


def main() -> None:
    options = arguments(
        __doc__,
        model=DEFAULT_MODEL,
        data="self",
        tokens=11_000,
        eval_tokens=4096,
        codes=512,
        k=[1, 8],
        selections=["matching_pursuit", "cosine"],
        folder=Path("runs/steps"),
    )
    model = load_model(options.model)
    text = load_text(options.data, model, n_tokens=options.tokens, stage=bar)
    print(
        f"{options.model}, all heads, {options.codes} codes a head, {text.n_tokens} tokens of {text.spec}\n"
    )
    print("| selection | k | step | CE increase, self [95 %] | stdlib [95 %] |\n|---|---|---|---|---|")
    for selection in options.selections:
        for k in options.k:
            for number, (step, (refits, settings)) in enumerate(STEPS.items()):
                if k == 1 and step == "+ least squares":
                    continue  # of one code a vector it is k-means once more
                cells = _increases(model, text, selection, k, number, refits, settings, options)
                print(f"| {selection} | {k} | {step} | {' | '.join(cells)} |", flush=True)


def _increases(model, text, selection, k, number, refits, settings, options) -> list[str]:
    codebook.REFITS = refits
    config = FitConfig(n_codes=options.codes, k=k, selection=selection, **settings)
    folder = options.folder / f"{selection}-k{k}-{number}"
    books = fit_codebooks(model, ["heads"], text, folder, config, stage=bar)
    found = quality_of_folder(
        model, books, ["self", "stdlib"], n_tokens=options.eval_tokens, control_blocks=0, stage=bar
    )
    return [increase(text["rows"][1]) for text in found["texts"]]


if __name__ == "__main__":
    main()
