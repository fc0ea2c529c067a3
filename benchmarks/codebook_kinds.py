"""Kinds of codebooks at all 270 heads, on the same held-out blocks, with paired differences.

    python -m benchmarks.codebook_kinds [--folder runs/kinds]    # half an hour of a core; goes on where it stopped
    python -m benchmarks.codebook_kinds --show                   # the table of docs/evidence.md

``interp codebook fit`` fits them, each head behind the earlier ones.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from interp import load_model
from interp.bottlenecks.store import Codebooks
from interp.evaluation.codebook_quality import evaluate_codebooks
from interp.files import read_json, write_json
from interp.progress import bar
from interp.stats import mean_interval
from interp.text import load_text

RESULT = Path(__file__).parent / "results" / "codebook_kinds.json"
BEST = "residual-vq-36"
KINDS = {
    "vq-9": "--kind vq --bits 9",
    "codebook-36": "--k 4",
    "grouped-vq-36": "--kind grouped-vq --bits 36",
    BEST: "--kind residual-vq --bits 36",
}
TEXTS, TOKENS, HELD_OUT, CONTEXT = ("self", "stdlib"), 11_000, 2048, 64


def measure(folder: Path) -> None:
    model = load_model()
    found = read_json(RESULT) if RESULT.is_file() else {}
    for name, options in KINDS.items():
        if name in found:
            continue
        words = f"codebook fit --sites heads {options} --tokens {TOKENS} --out {folder / name}"
        subprocess.run([sys.executable, "-m", "interp.cli.main", *words.split()], check=True)
        books = Codebooks.from_pretrained(folder / name, model)
        k = books.manifest["fit"]["k"]
        found[name] = {}
        for spec in TEXTS:
            text, other = (
                load_text(spec, model, n_tokens=HELD_OUT, context=CONTEXT, split=split, stage=bar)
                for split in ("heldout", "train")
            )
            got = evaluate_codebooks(model, {k: books}, text, other, control_blocks=0, stage=bar)
            scores = got.scores[f"codes k={k}"]
            found[name][spec] = {
                "ce": (scores.ce - got.plain.ce).tolist(),
                "kl": scores.kl.tolist(),
                "explained": got.usage[k]["variance_explained_mean"],
                "worst": got.usage[k]["variance_explained_min"],
            }
        write_json(RESULT, found, indent=None)


def show() -> None:
    found = read_json(RESULT)
    table = Table(
        "kind", *(f"{spec}: {what}" for spec in TEXTS for what in ("nats", "minus best", "KL", "VE"))
    )
    for name, texts in found.items():
        cells = []
        for spec in TEXTS:
            own, best = texts[spec], found[BEST][spec]
            apart = np.subtract(own["ce"], best["ce"])
            cells += [_shown(own["ce"]), _shown(apart) if name != BEST else "", f"{np.mean(own['kl']):.2f}"]
            cells += [f"{own['explained']:.2f} ({own['worst']:.2f})"]
        table.add_row(name, *cells)
    Console(width=170).print(table)


def _shown(values: list[float] | np.ndarray) -> str:
    """Mean, and its 95 % interval over blocks."""
    low, high = mean_interval(np.asarray(values)[:, None], 0)
    return f"{np.mean(values):+.2f} [{low[0]:+.2f}, {high[0]:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/kinds"), help="where codebooks are kept")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if not given.show:
        measure(given.folder)
    show()


if __name__ == "__main__":
    main()
