"""Kinds of codebooks at all 270 heads, on the same held-out blocks, with paired differences.

    python -m benchmarks.codebook_kinds [--seeds 0 1 2] [--folder runs/kinds]    # an hour of a core a seed; resumes
    python -m benchmarks.codebook_kinds --show                                   # the table in benchmarks/TABLES.md

``interp codebook fit`` fits them, each head behind the earlier ones. A seed is of the training text and of k-means.
"""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, arguments, kept, print_table
from interp import Codebooks, load_model
from interp.evaluation.codebook_quality import evaluate_codebooks
from interp.files import write_json
from interp.progress import bar
from interp.stats import mean_interval
from interp.text import load_text

RESULT = RESULTS / "codebook_kinds.json"
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
        if str(seed) in kept(RESULT, {}).get(name, {}):
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
        results = kept(RESULT, {})  # another process may have measured meanwhile
        results.setdefault(name, {})[str(seed)] = cell
        write_json(RESULT, results, indent=None)


def show() -> None:
    results, rows = kept(RESULT, {}), []
    for name in (name for name in KINDS if name in results):
        cells: list[str | None] = []
        for spec in TEXTS:
            by_seed = {seed: cell[spec] for seed, cell in results[name].items()}
            best = results.get(AGAINST[name], {})
            apart = [np.subtract(by_seed[s]["ce"], best[s][spec]["ce"]) for s in best if s in by_seed]
            cells.append(_shown([cell["ce"] for cell in by_seed.values()]))
            cells.append(_shown(apart) if apart and name != AGAINST[name] else None)
            cells.append(f"{np.mean([cell['kl'] for cell in by_seed.values()]):.2f}")
        rows.append((name, ",".join(results[name]), *cells))
    columns = (f"{spec}: {what}" for spec in TEXTS for what in ("nats", "minus best", "KL"))
    print_table(("kind", "seeds", *columns), rows)


def _shown(values: Sequence[Sequence[float] | np.ndarray]) -> str:
    """Mean over seeds and blocks, its 95 % interval over blocks, and from which seed's mean to which."""
    by_seed = np.asarray(values)
    low, high = mean_interval(by_seed.mean(0)[:, None], 0)
    means = by_seed.mean(1)
    return f"{means.mean():+.2f} [{low[0]:+.2f}, {high[0]:+.2f}] ({means.min():+.2f} to {means.max():+.2f})"


def main() -> None:
    kinds = {"nargs": "+", "choices": KINDS, "default": list(KINDS), "metavar": "KIND"}
    given = arguments(__doc__, folder=Path("runs/kinds"), seeds=[0, 1, 2], kinds=kinds, show=False)
    if not given.show:
        measure(given.folder, given.seeds, given.kinds)
    show()


if __name__ == "__main__":
    main()
