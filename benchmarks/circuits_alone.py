"""CMD of a finished bench's rankings on more held-out pairs, resampling these pairs and the seeds.

    interp bench --tasks ioi --methods adaptive-patching,nap-ig,eap-ig --pairs 10,25 --out bench-ioi
    python -m benchmarks.circuits_alone bench-ioi [--pairs 10] [--held-out 40] [--methods adaptive-patching,eap-ig]

``interp bench`` runs circuits of five seeds on ten held-out pairs; which ten counts for as much as the seed.
``--pairs``: that circuits were found from [default: the bench's fewest]; ``--methods`` [default: all that the bench
has kept]; ``--out`` [default: BENCH/circuits-alone.json]. What each seed's circuits do is kept: a killed run goes on.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.common import arguments, interval, print_table
from interp import load_model, load_task
from interp.bench.plan import YARDSTICK, BenchPlan, drawn, read_record, write_record
from interp.bench.run import pool_of
from interp.errors import InputError
from interp.evaluation.faithfulness import GRID, area_to_the_model
from interp.evaluation.stability import best_heads
from interp.files import write_json
from interp.interventions.ablation import Ablator, all_or_none
from interp.progress import bar
from interp.prompts.sampling import held_out_pairs
from interp.scores.registry import load_method

N_BOOT, AGAINST = 2000, "adaptive-patching"


def main() -> None:
    args = arguments(__doc__, {"bench": Path}, pairs=int, held_out=40, methods=str, out=Path)
    kept = json.loads((args.bench / "bench.json").read_text(encoding="utf-8"))["plan"]
    del kept["against"]  # of the bench's own table
    dtype = kept.pop("dtype", "float32")
    plan = BenchPlan(**{name: tuple(its) if isinstance(its, list) else its for name, its in kept.items()})
    if len(targets := plan.targets()) != 1:
        raise InputError(f"{args.bench} is of {', '.join(target.name for target in targets)}: one at a time")
    task, model = load_task(targets[0].task), load_model(targets[0].model, dtype=dtype)
    n = args.pairs or min(plan.pairs)
    methods = {*args.methods.split(","), AGAINST} if args.methods else set()
    rankings = _rankings(args.bench, n, methods)
    pool = pool_of(task, model.tokenizer, plan)
    others = held_out_pairs(task, model.tokenizer, args.held_out, pool)
    counts = [int(share * model.cfg.n_layers * model.cfg.n_heads) for share in GRID]
    ablator = Ablator(model, others)
    values: dict[str, list[np.ndarray]] = {}
    notes: list[str] = []
    cells = [(method, seed) for method, records in rankings.items() for seed in records]
    with bar("circuits alone", len(cells) * (2 + len(counts)) * len(others)) as advance:
        for method, seed in cells:
            kept = rankings[method][seed]
            path = args.bench / "circuits-alone" / f"{method}-n{n}-seed{seed}.json"
            registered = None if method == YARDSTICK else load_method(method)
            grow = registered and registered.nested
            settings = {
                "cell": kept["sha256"],
                "version": registered and registered.version,
                "held_out": others.digest(),
                "counts": counts,
            }
            record = read_record(path, settings, notes.append)
            if record is None:
                heads = np.array(kept["result"]["heads"])
                if grow is not None:
                    heads = grow(model, pool.subset(drawn(seed, n, len(pool)))).heads
                circuits = [best_heads(heads, count, seed=seed) for count in counts]
                masks = np.stack([*all_or_none(heads.shape), *circuits])
                record = {"metric": ablator.metric(masks, progress=advance).tolist()}
                write_record(path, settings, record)
            else:
                advance((2 + len(counts)) * len(others))
            values.setdefault(method, []).append(np.array(record["metric"]))
    for note in notes:
        print(note)
    result = _compare({key: np.array(metrics) for key, metrics in values.items()})
    result |= {"task": task.name, "pairs": n, "held_out": len(others), "grid": GRID, "counts": counts}
    write_json(args.out or args.bench / "circuits-alone.json", result)
    show(result)


def _rankings(bench: Path, n: int, methods: set[str]) -> dict[str, dict[int, dict]]:
    """The bench's records by method, all if none is named, and seed: those seeds that every method has."""
    records: dict[str, dict[int, dict]] = {}
    for path in sorted(bench.glob(f"*/*/n{n}-seed*.json")):
        kept, method = json.loads(path.read_text(encoding="utf-8")), path.parent.name
        if not methods or method in methods:
            records.setdefault(method, {})[kept["settings"]["seed"]] = kept
    if not records or methods - set(records):
        missing = sorted(methods - set(records)) or ["any method"]
        raise InputError(f"{bench} holds no rankings of {', '.join(missing)} from {n} pairs")
    # seeds are resampled together
    common = set.intersection(*(set(by_seed) for by_seed in records.values()))
    if not common:
        raise InputError(f"{bench} holds no seed from {n} pairs that {', '.join(records)} share")
    return {method: {seed: by_seed[seed] for seed in sorted(common)} for method, by_seed in records.items()}


def _cmd(values: np.ndarray) -> np.ndarray:
    """[..., seed, 2 + size, pair] -> CMD, mean over seeds."""
    means = values.mean(-1)
    empty, full = means[..., :1], means[..., 1:2]
    share = (means[..., 2:] - empty) / (full - empty)
    return area_to_the_model(share).mean(-1)


def _compare(values: dict[str, np.ndarray]) -> dict:
    rng = np.random.default_rng(0)
    seeds, _, pairs = values[AGAINST].shape
    boots: dict[str, list[float]] = {method: [] for method in values}
    for _ in range(N_BOOT):
        drawn_seeds, rows = rng.integers(seeds, size=seeds), rng.integers(pairs, size=pairs)
        for method, metrics in values.items():
            boots[method].append(float(_cmd(metrics[drawn_seeds][:, :, rows])))
    methods = {}
    for method, metrics in values.items():
        difference = np.array(boots[AGAINST]) - np.array(boots[method])
        methods[method] = {
            "cmd": float(_cmd(metrics)),
            "interval": np.percentile(boots[method], [2.5, 97.5]).tolist(),
            "by_seed": [float(_cmd(metrics[[seed]])) for seed in range(seeds)],
            "less": float(_cmd(values[AGAINST]) - _cmd(metrics)),
            "less_interval": np.percentile(difference, [2.5, 97.5]).tolist(),
        }
    return {"methods": methods, "against": AGAINST}


def show(result: dict) -> None:
    rows = []
    for method, summary in sorted(result["methods"].items(), key=lambda item: item[1]["cmd"]):
        seeds = f"{min(summary['by_seed']):.3f}–{max(summary['by_seed']):.3f}"
        less = None if method == AGAINST else interval(summary["less"], *summary["less_interval"], "+.3f")
        rows.append((method, interval(summary["cmd"], *summary["interval"], ".3f"), seeds, less))
    title = f"{result['task']}: found from {result['pairs']} pairs, run on {result['held_out']} others"
    print_table(("order of heads", "CMD [95 %]", "seeds", f"{AGAINST} minus it [95 %]"), rows, title)


if __name__ == "__main__":
    main()
