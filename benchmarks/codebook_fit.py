"""What each step of fitting codebooks buys: all heads of a model through codes, steps added one at a time.

    python -m benchmarks.codebook_fit                       # the table of benchmarks/REPORT.md
    python -m benchmarks.codebook_fit --selections cosine --k 1 --model gpt2

Every row is a fit of its own in a folder that is kept, so a killed run goes on where it stopped. The last row is the
default of ``interp codebook fit``. One seed; intervals are over held-out blocks, so they hold for these books.
"""

import itertools
from pathlib import Path

import interp.bottlenecks.kinds.codebook as codebook
from benchmarks.codebook_curve import EVAL_TOKENS, JUDGED, N_CODES, increase
from benchmarks.common import arguments
from interp import DEFAULT_MODEL, load_model
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.evaluation.codebook_quality import quality_of_folder
from interp.progress import bar
from interp.text import load_text

TOKENS, FOLDER = 11_000, Path("runs/steps")
STEPS = {
    "k-means on z, in the plain model": (0, {"by_output": False, "sequential": False}),
    "+ least squares": (codebook.REFITS, {"by_output": False, "sequential": False}),
    "+ compared by output": (codebook.REFITS, {"by_output": True, "sequential": False}),
    "+ fitted behind the earlier books": (codebook.REFITS, {"by_output": True, "sequential": True}),
}
"""Rounds of least squares, and how codebooks are fitted."""


def main() -> None:
    options = arguments(__doc__, model=DEFAULT_MODEL, k=[1, 8], selections=["matching_pursuit", "cosine"])
    model = load_model(options.model)
    text = load_text("self", model, n_tokens=TOKENS, stage=bar)
    print(f"{options.model}, all heads, {N_CODES} codes a head, {text.n_tokens} tokens of {text.spec}\n")
    print("| selection | k | step | CE increase, self [95 %] | stdlib [95 %] |\n|---|---|---|---|---|")
    for selection, k in itertools.product(options.selections, options.k):
        for number, (step, (refits, settings)) in enumerate(STEPS.items()):
            if k == 1 and step == "+ least squares":
                continue  # of one code a vector it is k-means once more
            codebook.REFITS = refits
            config = FitConfig(n_codes=N_CODES, k=k, selection=selection, **settings)
            folder = FOLDER / f"{selection}-k{k}-{number}"
            books = fit_codebooks(model, ["heads"], text, folder, config, stage=bar)
            quality = quality_of_folder(model, books, JUDGED, n_tokens=EVAL_TOKENS, control_blocks=0, stage=bar)
            cells = " | ".join(increase(of["rows"][1]) for of in quality["texts"])
            print(f"| {selection} | {k} | {step} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
