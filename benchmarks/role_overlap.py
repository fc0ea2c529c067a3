"""How ``role-overlap`` was chosen on the development tasks, and what it is worth beside ``overlap`` and others.

::

    python benchmarks/role_overlap.py --show      # the kept tables
    python benchmarks/role_overlap.py             # again: half an hour on two cores

Three statistics of the codes at a role and six sizes of a book. The mean average precision of the three development
tasks with 10 and 100 pairs, five seeds, decides among sizes that ten pairs allow. Only then are the held-out tasks run,
with what was chosen. Pairs are those of ``interp bench``, so that the other methods' rows are cells kept from there.
"""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor

from interp import DEFAULT_MODEL, load_model, load_task
from interp.activations.means import HeadMeans, role_positions
from interp.activations.stream import feed
from interp.bench.plan import POOL, POOL_SEED, drawn
from interp.bench.table import compare_subsets
from interp.circuits.references import load_reference
from interp.evaluation.recovery import recover
from interp.files import read_json, write_json
from interp.scores.role_overlap import RoleOverlapConfig, code_ids, side_information

DEVELOPMENT, HELD_OUT = ("ioi", "greater-than", "docstring"), ("successor", "pronoun", "agreement")
TASKS = {"choice": DEVELOPMENT, "frozen": DEVELOPMENT + HELD_OUT}
SIZES, CHOICE_PAIRS, CHOICE_SEEDS = (2, 4, 8, 16, 32, 64), (10, 100), 5
PAIRS, SEEDS = (10, 25, 100), 10
OTHERS = ("overlap", "mean-difference", "attribution", "random")
NUMBERS = ("roc_auc", "average_precision")
AGAINST = tuple(product(OTHERS[:2], NUMBERS))
CONSOLE = Console(width=230)
KEPT = Path(__file__).parent / "results"
Ids = Int[np.ndarray, "side pair role layer head"]


def unique_codes(ids: Ids, n_codes: int) -> Float[np.ndarray, "role layer head"]:
    """Codes on some clean prompt and on no corrupt one: the published count."""
    clean, corrupt = np.stack([(ids == code).any(1) for code in range(n_codes)], 1)
    return (clean & ~corrupt).sum(0)


def changed_share(ids: Ids, _n_codes: int) -> Float[np.ndarray, "role layer head"]:
    """Pairs whose two prompts have different codes."""
    return (ids[0] != ids[1]).mean(0)


STATISTICS: dict[str, Callable] = {
    "unique codes": unique_codes,
    "changed share": changed_share,
    "information": side_information,
}
CHOSEN = "information", RoleOverlapConfig.n_codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="print what is kept, run nothing")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--part", choices=TASKS, help="measure only this again")
    args = parser.parse_args()
    path = KEPT / "role_overlap.json"
    if not args.show:
        kept = read_json(path) if path.is_file() else {}
        for part in [args.part] if args.part else TASKS:
            kept[part] = [row for task in TASKS[part] for row in measured(task, args.cache, part)]
            write_json(path, kept)
    show(read_json(path))


def measured(task: str, cache: Path, part: str) -> list[dict]:
    """ROC AUC and average precision of every seed, for all variants or for the chosen one."""
    z, truth = outputs(task, cache), load_reference(f"{task}/{DEFAULT_MODEL}").members()
    choice = part == "choice"
    rows: dict[tuple, list] = {}
    for n, seed in product(*((CHOICE_PAIRS, range(CHOICE_SEEDS)) if choice else (PAIRS, range(SEEDS)))):
        some = z[:, drawn(seed, n, POOL)]
        for size in [size for size in SIZES if size <= n] if choice else [CHOSEN[1]]:
            ids = code_ids(some, size, seed)
            for name in STATISTICS if choice else [CHOSEN[0]]:
                found = recover(STATISTICS[name](ids, size).max(0), truth, n_random=1)
                rows.setdefault((n, name, size), []).append([found.roc_auc, found.average_precision])
    return [
        {"task": task, "n": n, "statistic": name, "n_codes": size}
        | {
            number: np.round(column, 4).tolist()
            for number, column in zip(NUMBERS, np.array(values).T, strict=True)
        }
        for (n, name, size), values in rows.items()
    ]


def outputs(task: str, cache: Path) -> Float[Tensor, "side pair role layer head d_head"]:
    """What every head writes at the roles of the pool of ``interp bench``, run once."""
    path = cache / f"role-outputs-{task}.pt"
    if not path.is_file():
        model = load_model(DEFAULT_MODEL)
        pairs = load_task(task).sample(model.tokenizer, POOL, POOL_SEED)
        means = HeadMeans(pairs, role_positions(pairs))
        feed(model, pairs, [means])
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(means.z_, path)
    return torch.load(path)


def show(kept: dict[str, list]) -> None:
    table = Table(title="development tasks, five seeds: ROC AUC (average precision)")
    for name in ("statistic", "codes", "pairs", *DEVELOPMENT, "mean"):
        table.add_column(name, justify="right")
    cells: dict[tuple, list] = {}
    for row in kept["choice"]:
        key = row["statistic"], row["n_codes"], row["n"]
        cells.setdefault(key, []).append([np.mean(row[number]) for number in NUMBERS])
    for key, found in cells.items():
        table.add_row(*map(str, key), *(_text(row) for row in (*found, np.mean(found, 0))))
    CONSOLE.print(table)

    values: dict[tuple, list] = {}
    for row in kept["frozen"]:
        values[row["task"], row["n"], "role-overlap"] = list(zip(*(row[x] for x in NUMBERS), strict=True))
    for task in TASKS["frozen"]:
        for cell in read_json(KEPT / "bench" / f"{task}.json")["cells"]:
            if cell["decides"] and cell["method"] in OTHERS:
                key = task, cell["n"], cell["method"]
                values.setdefault(key, []).append([cell[number] for number in NUMBERS])
    title = "ten seeds: ROC AUC (average precision); role-overlap minus it [95 % over seeds]"
    table = Table(title=title)
    for name in ("task", "pairs", "role-overlap", *OTHERS, *(f"{x} minus {m}" for m, x in AGAINST)):
        table.add_column(name, justify="right")
    scopes = {"development": DEVELOPMENT, "held out": HELD_OUT} | {task: (task,) for task in TASKS["frozen"]}
    for (scope, tasks), n in product(scopes.items(), PAIRS):
        found = {m: np.array([values[task, n, m] for task in tasks]) for m in ("role-overlap", *OTHERS)}
        less = [(found["role-overlap"] - found[m])[..., NUMBERS.index(x)] for m, x in AGAINST]
        texts = [_text(value.mean((0, 1))) for value in found.values()]
        table.add_row(scope, str(n), *texts, *(_difference(compare_subsets(those)) for those in less))
    CONSOLE.print(table)


def _difference(found: dict) -> str:
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _text(cell: Float[np.ndarray, " number"]) -> str:
    return f"{cell[0]:.3f} ({cell[1]:.3f})"


if __name__ == "__main__":
    main()
