"""How well do the scores find the heads that exact interchange finds? The README's table.

    python benchmarks/recovery.py [--tasks ioi greater-than docstring] [--seeds 10] [--out benchmarks/results]

One pool of 300 pairs a task (seed 0) is run once; every seed draws its pairs from it. The references were measured
on other pairs (seed 1000). Rows: the published recipe (250 pairs, so 500 prompts; dictionary trained on 10), the
same recipe on fewer pairs, attribution patching, and what needs no method at all: the norm of the difference of
mean head outputs, a random ranking, the layer index. The yardstick is exact interchange itself on as many pairs.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import feed
from interp.circuits.references import load_reference
from interp.evaluation.recovery import layer_prior, recover
from interp.files import write_json
from interp.models import load_model
from interp.progress import bar
from interp.record import versions
from interp.scores.attribution import AttributionConsumer
from interp.scores.head_codes import HeadCodesConfig, fit_head_codes
from interp.scores.overlap import PUBLISHED_L1, head_overlap
from interp.tasks import load_task

MODEL = "smollm2-135m-instruct"
POOL = 300
PUBLISHED_PAIRS = 250
FEW = (10, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than", "docstring"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    model = load_model(MODEL)
    for name in arguments.tasks:
        rows = measure(model, name, arguments.seeds)
        write_json(
            arguments.out / f"recovery-{name}.json", {"task": name, "rows": rows, "versions": versions()}
        )
        show(name, rows)


def measure(model, name: str, seeds: int) -> list[dict]:
    """One row a method and number of pairs: AUC, average precision and Spearman of every seed."""
    reference = load_reference(f"{name}/{MODEL}")
    truth, effects = reference.members(), reference.effects()
    pool = load_task(name).sample(model.tokenizer, POOL, 0)
    means, gradients = HeadMeans(pool), AttributionConsumer(POOL)
    with bar(f"{name}: the pool", POOL) as advance:
        feed(model, pool, [means, gradients], progress=advance)
    weights = output_weights(model)
    found: dict[tuple[str, int], list[dict]] = {}

    def add(method: str, n: int, scores: np.ndarray) -> None:
        result = recover(scores, truth, effects).to_dict()
        kept = {key: result[key] for key in ("roc_auc", "average_precision", "spearman")}
        found.setdefault((method, n), []).append(kept)

    with bar(f"{name}: seeds", seeds) as advance:
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(POOL)
            held_out = np.random.default_rng(seed).permutation(reference.n_pairs)
            for n in (*FEW, PUBLISHED_PAIRS):
                chosen = order[:n]
                codes = fit_head_codes(
                    means.subset(chosen.tolist()), weights, HeadCodesConfig(seed=seed, l1=PUBLISHED_L1[name])
                )
                add(
                    "overlap (published recipe)" if n == PUBLISHED_PAIRS else "overlap",
                    n,
                    head_overlap(codes),
                )
                add("norm of mean difference", n, _mean_difference_norm(means.z_[:, chosen], weights))
                add("attribution", n, gradients.heads_[chosen].mean(0))
            for n in FEW:
                # some of the reference's pairs, judged by its other pairs
                judge = reference.heads[held_out[n:]].mean(0)
                gap = (reference.metric_clean - reference.metric_corrupt)[held_out[n:]].mean()
                own = reference.heads[held_out[:n]].mean(0)
                result = recover(own, np.abs(judge) >= 0.02 * gap, judge).to_dict()
                kept = {key: result[key] for key in ("roc_auc", "average_precision", "spearman")}
                found.setdefault(("exact interchange, other pairs (yardstick)", n), []).append(kept)
            add("random ranking", 0, np.random.default_rng(seed).standard_normal(truth.shape))
            advance(1)
    add("layer index", 0, layer_prior(*truth.shape))
    return [{"method": method, "n": n, "seeds": values} for (method, n), values in found.items()]


def _mean_difference_norm(z: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    """Norm over d_model of the difference of mean head outputs between clean and corrupt prompts."""
    difference = (z[0] - z[1]).mean((0, 1))  # [layer, head, d_head]
    return torch.einsum("lhd,lhdm->lhm", difference, weights).norm(dim=-1).double().numpy()


def show(name: str, rows: list[dict]) -> None:
    """Mean and, in brackets, smallest and largest over seeds."""
    table = Table("method", "pairs", "ROC AUC", "average precision", "Spearman", title=name, box=None)
    for row in sorted(rows, key=lambda row: (row["method"], row["n"])):
        cells = []
        for key in ("roc_auc", "average_precision", "spearman"):
            values = np.array([seed[key] for seed in row["seeds"]], dtype=float)
            spread = f" [{values.min():.3f}, {values.max():.3f}]" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}")
        table.add_row(row["method"], str(row["n"] or "–"), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
