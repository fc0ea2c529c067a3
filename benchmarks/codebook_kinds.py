"""Kinds of codebooks at all 270 heads, on the same held-out blocks, with paired differences.

    python -m benchmarks.codebook_kinds [--seeds 0 1 2] [--folder runs/kinds]    # an hour of a core a seed; resumes
    python -m benchmarks.codebook_kinds --show                                   # the table of docs/evidence.md

``interp codebook fit`` fits them, each head behind the earlier ones. A seed is of the training text and of k-means.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Sequence
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
KINDS = {
    "vq-9": "--kind vq --bits 9",
    "codebook-18": "--k 2",
    "grouped-vq-18": "--kind grouped-vq --bits 18",
    "residual-vq-18": "--kind residual-vq --bits 18",
    "codebook-36": "--k 4",
    "grouped-vq-36": "--kind grouped-vq --bits 36",
    "residual-vq-36": "--kind residual-vq --bits 36",
}
AGAINST = {name: f"residual-vq-{36 if name == 'vq-9' else name.rpartition('-')[2]}" for name in KINDS}
"""What a kind is told apart from."""
TEXTS, TOKENS, HELD_OUT, CONTEXT = ("self", "stdlib"), 11_000, 2048, 64


def measure(folder: Path, seeds: Sequence[int], kinds: Sequence[str]) -> None:
    model = load_model()
    for seed, name in itertools.product(seeds, kinds):
        if str(seed) in _found().get(name, {}):
            continue
        out = folder / f"{name}-{seed}"
        words = f"codebook fit --sites heads {KINDS[name]} --tokens {TOKENS} --seed {seed} --out {out}"
        subprocess.run([sys.executable, "-m", "interp.cli.main", *words.split()], check=True)
        books = Codebooks.from_pretrained(out, model)
        k = books.manifest["fit"]["k"]
        cell = {}
        for spec in TEXTS:
            text, other = (
                load_text(spec, model, n_tokens=HELD_OUT, context=CONTEXT, split=split, stage=bar)
                for split in ("heldout", "train")
            )
            got = evaluate_codebooks(model, {k: books}, text, other, control_blocks=0, stage=bar)
            scores = got.scores[f"codes k={k}"]
            cell[spec] = {
                "ce": (scores.ce - got.plain.ce).tolist(),
                "kl": scores.kl.tolist(),
                "explained": got.usage[k]["variance_explained_mean"],
                "worst": got.usage[k]["variance_explained_min"],
            }
        found = _found()  # another process may have measured meanwhile
        found.setdefault(name, {})[str(seed)] = cell
        write_json(RESULT, found, indent=None)


def _found() -> dict[str, dict[str, dict]]:
    """Of each kind and seed what was measured on each text."""
    return read_json(RESULT) if RESULT.is_file() else {}


def show() -> None:
    found = _found()
    table = Table(
        "kind", "seeds", *(f"{spec}: {what}" for spec in TEXTS for what in ("nats", "minus best", "KL", "VE"))
    )
    for name in (name for name in KINDS if name in found):
        cells = []
        for spec in TEXTS:
            own = {seed: cell[spec] for seed, cell in found[name].items()}
            best = {seed: cell[spec] for seed, cell in found.get(AGAINST[name], {}).items() if seed in own}
            cells.append(_shown([cell["ce"] for cell in own.values()]))
            apart = [np.subtract(own[seed]["ce"], cell["ce"]) for seed, cell in best.items()]
            cells.append(_shown(apart) if apart and name != AGAINST[name] else "")
            cells.append(f"{np.mean([cell['kl'] for cell in own.values()]):.2f}")
            explained, worst = (np.mean([cell[of] for cell in own.values()]) for of in ("explained", "worst"))
            cells.append(f"{explained:.2f} ({worst:.2f})")
        table.add_row(name, ",".join(found[name]), *cells)
    Console(width=190).print(table)


def _shown(values: Sequence[Sequence[float] | np.ndarray]) -> str:
    """Mean over seeds and blocks, its 95 % interval over blocks, and from which seed's mean to which."""
    by_seed = np.asarray(values)
    low, high = mean_interval(by_seed.mean(0)[:, None], 0)
    means = by_seed.mean(1)
    return f"{means.mean():+.2f} [{low[0]:+.2f}, {high[0]:+.2f}] ({means.min():+.2f} to {means.max():+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/kinds"), help="where codebooks are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if not given.show:
        measure(given.folder, given.seeds, given.kinds)
    show()


if __name__ == "__main__":
    main()
