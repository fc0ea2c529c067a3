"""How ``role-overlap`` was chosen on the development tasks, and what it is worth beside ``overlap`` and others.

    python -m benchmarks.role_overlap --show      # the kept tables
    python -m benchmarks.role_overlap             # again: half an hour on two cores

Three statistics of the codes at a role and the sizes of a book that ten pairs allow. The mean average precision of the
three development tasks with 10 and 100 pairs, five seeds, decides. Only then are the held-out tasks run. Pairs are
those of ``interp bench``, so that the other methods' rows are cells kept from there.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.common import RESULTS, arguments, interval, print_table
from interp import DEFAULT_MODEL, load_model, load_task
from interp.activations.means import HeadMeans, role_positions
from interp.activations.stream import feed
from interp.bench.plan import POOL, POOL_SEED, drawn
from interp.bench.table import compare_subsets
from interp.circuits.references import load_reference
from interp.evaluation.recovery import recover
from interp.files import read_json, write_json
from interp.scores.baselines.role_overlap import RoleOverlapConfig, code_ids, side_information

DEVELOPMENT, HELD_OUT = ("ioi", "greater-than", "docstring"), ("successor", "pronoun", "agreement")
TASKS = {"choice": DEVELOPMENT, "frozen": DEVELOPMENT + HELD_OUT}
SIZES, CHOICE_PAIRS, CHOICE_SEEDS = (2, 4, 8), (10, 100), 5
PAIRS, SEEDS = (10, 25, 100), 10
OTHERS = ("overlap", "mean-difference", "attribution", "random")
NUMBERS = ("roc_auc", "average_precision")
AGAINST = tuple(product(OTHERS[:2], NUMBERS))
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
    path = RESULTS / "role_overlap.json"
    if not arguments(__doc__, show=False).show:
        rows_by_part: dict[str, list] = {part: [] for part in TASKS}
        for task in TASKS["frozen"]:
            z = outputs(task)
            for part in (part for part in TASKS if task in TASKS[part]):
                rows_by_part[part] += measured(task, z, part)
        write_json(path, rows_by_part)
    show(read_json(path))


def measured(task: str, z: Tensor, part: str) -> list[dict]:
    """ROC AUC and average precision of every seed, for all variants or for the chosen one."""
    truth = load_reference(f"{task}/{DEFAULT_MODEL}").members()
    choice = part == "choice"
    rows: dict[tuple, list] = {}
    for n, seed in product(*((CHOICE_PAIRS, range(CHOICE_SEEDS)) if choice else (PAIRS, range(SEEDS)))):
        sampled_outputs = z[:, drawn(seed, n, POOL)]
        for size in SIZES if choice else [CHOSEN[1]]:
            ids = code_ids(sampled_outputs, size, seed)
            for name in STATISTICS if choice else [CHOSEN[0]]:
                recovery = recover(STATISTICS[name](ids, size).max(0), truth, n_random=1)
                rows.setdefault((n, name, size), []).append([recovery.roc_auc, recovery.average_precision])
    return [
        {"task": task, "n": n, "statistic": name, "n_codes": size}
        | {number: np.round(column, 4).tolist() for number, column in zip(NUMBERS, np.array(values).T, strict=True)}
        for (n, name, size), values in rows.items()
    ]


def outputs(task: str) -> Float[Tensor, "side pair role layer head d_head"]:
    """What every head writes at the roles of the pool of ``interp bench``."""
    model = load_model(DEFAULT_MODEL)
    pairs = load_task(task).sample(model.tokenizer, POOL, POOL_SEED)
    means = HeadMeans(pairs, role_positions(pairs))
    feed(model, pairs, [means])
    return means.z_


def show(known: dict[str, list]) -> None:
    cells: dict[tuple, list] = {}
    for row in known["choice"]:
        key = row["statistic"], row["n_codes"], row["n"]
        cells.setdefault(key, []).append([np.mean(row[number]) for number in NUMBERS])
    rows = [(*key, *(_text(row) for row in (*task_means, np.mean(task_means, 0)))) for key, task_means in cells.items()]
    title = "development tasks, five seeds: ROC AUC (average precision)"
    print_table(("statistic", "codes", "pairs", *DEVELOPMENT, "mean"), rows, title)

    values: dict[tuple, list] = {}
    for row in known["frozen"]:
        values[row["task"], row["n"], "role-overlap"] = list(zip(*(row[x] for x in NUMBERS), strict=True))
    for task in TASKS["frozen"]:
        for cell in read_json(RESULTS / "bench" / f"{task}.json")["cells"]:
            if cell["decides"] and cell["method"] in OTHERS:
                key = task, cell["n"], cell["method"]
                values.setdefault(key, []).append([cell[number] for number in NUMBERS])
    rows = []
    scopes = {"development": DEVELOPMENT, "held out": HELD_OUT} | {task: (task,) for task in TASKS["frozen"]}
    for (scope, tasks), n in product(scopes.items(), PAIRS):
        scores = {m: np.array([values[task, n, m] for task in tasks]) for m in ("role-overlap", *OTHERS)}
        less = [compare_subsets((scores["role-overlap"] - scores[m])[..., NUMBERS.index(x)]) for m, x in AGAINST]
        texts = (_text(value.mean((0, 1))) for value in scores.values())
        differences = (interval(of["difference"], of["low"], of["high"], "+.3f") for of in less)
        rows.append((scope, n, *texts, *differences))
    title = "ten seeds: ROC AUC (average precision); role-overlap minus it [95 % over seeds]"
    columns = ("task", "pairs", "role-overlap", *OTHERS, *(f"{x} minus {m}" for m, x in AGAINST))
    print_table(columns, rows, title)


def _text(cell: Float[np.ndarray, " number"]) -> str:
    return f"{cell[0]:.3f} ({cell[1]:.3f})"


if __name__ == "__main__":
    main()
