"""Edge scores against path patching: benchmarks/REPORT.md's table of edges on the embedded model.

    python -m benchmarks.path_patched_edges [--task ioi] [--pairs 10] [--seeds 3] [--reference-pairs 16]
    python -m benchmarks.path_patched_edges --seeds 10 --reference-pairs 96 --out FILE    # the table

The universe: every edge into q, k or v among the :data:`HEADS` heads of largest exact effect, each path-patched alone
on held-out pairs. True edges are those of at least :data:`THRESHOLD` of the gap. Every method scores *all* edges of
the model from other pairs; *among these* scores the universe's edges alone, *a third of the pairs* those on the few
pairs and by the small budget of ``interp discover``. Forwards are per pair of all. Intervals are 95 % bootstraps over
the held-out pairs and over seeds, both drawn anew.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.common import arguments, interval, print_table
from interp import DEFAULT_MODEL, load_task
from interp.activations.stream import HUNDREDTHS, feed
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.files import write_json
from interp.interventions.clean_run import CleanRun
from interp.interventions.edges import EdgeList, EdgePatcher, EdgeScore
from interp.models import Model, Site, load_model
from interp.models.sites import components
from interp.progress import bar
from interp.prompts.pairs import PromptPairs
from interp.scores.adaptive_patching.edges import DISCOVERY_BUDGET, PatchedEdgesConfig, patched_edges
from interp.scores.adaptive_patching.role_codes import RoleCodes, RoleOutputs
from interp.scores.eap import EAPConfig, eap
from interp.scores.eap_ig import EAPIGConfig, eap_ig

VECTORS_PER_CODE = 4

HEADS, THRESHOLD = 16, 0.02
HELD_OUT_SEED = 3000
EVERY = 10**7
RESAMPLES = 1000
AGAINST = "eap-ig"
MEASURES = ("roc_auc", "average_precision")


def main() -> None:
    args = arguments(__doc__, task="ioi", pairs=10, seeds=3, reference_pairs=16, out=Path)
    model, task = load_model(), load_task(args.task)
    held_out = task.sample(model.tokenizer, args.reference_pairs, HELD_OUT_SEED)
    effects = load_reference(f"{args.task}/{DEFAULT_MODEL}").effects()
    strongest = np.argsort(-np.abs(effects), axis=None)[:HEADS]
    heads = effects.shape[1]
    edges = EdgeList.among([Site("attn", int(k) // heads, int(k) % heads) for k in strongest])
    exact, gaps = _measure(model, held_out, edges)
    gap = gaps.mean()
    share = np.abs(exact.mean(0)) / abs(gap)
    counts = ", ".join(f"{(share >= limit).sum()} ≥ {limit:.1%}" for limit in (0.005, 0.01, 0.02, 0.05))
    print(f"{len(edges)} edges among {HEADS} heads, {len(held_out)} held-out pairs, gap {gap:.2f}: {counts}")
    if not 0 < (true := int((share >= THRESHOLD).sum())) < len(edges):
        raise InputError(f"{true} of {len(edges)} edges reach {THRESHOLD:.1%}: nothing to tell apart")
    runs = []
    for seed in range(args.seeds):
        pairs = _fresh(task.sample(model.tokenizer, args.pairs + len(held_out), seed), held_out, args.pairs)
        runs.append(_scores(model, pairs, edges, seed))
    rows = _compare(runs, exact, gaps, THRESHOLD)
    if args.out:
        asked = {name: value for name, value in vars(args).items() if name != "out"}
        asked |= {"model": DEFAULT_MODEL, "heads": HEADS, "threshold": THRESHOLD}
        write_json(args.out, {**asked, "edges": len(edges), "true": true, "rows": rows})
    show({"rows": rows})


def _fresh(pairs: PromptPairs, held_out: PromptPairs, n: int) -> PromptPairs:
    seen = {pair.clean_tokens for pair in held_out}
    return pairs.subset([i for i, pair in enumerate(pairs) if pair.clean_tokens not in seen][:n])


def _measure(model: Model, pairs: PromptPairs, edges: EdgeList) -> tuple[np.ndarray, np.ndarray]:
    """Effect of every edge on every pair, and every pair's gap."""
    clean = CleanRun.of(model, pairs)
    patched = EdgePatcher(clean)
    effects = np.zeros((len(pairs), len(edges)))
    with bar("path patching", len(edges)) as advance:
        for layer in np.unique(edges.of_receivers("layer")):
            layer_edges = np.flatnonzero(edges.of_receivers("layer") == layer)
            rows, columns = (part.ravel() for part in np.meshgrid(range(len(pairs)), layer_edges, indexing="ij"))
            effects[rows, columns], _ = patched.effects(rows, edges.subset(columns))
            advance(len(layer_edges))
    return effects, clean.metric_[0] - clean.metric_[1]


def _scores(model: Model, pairs: PromptPairs, edges: EdgeList, seed: int) -> dict[str, tuple[np.ndarray, float]]:
    """Scores of the universe's edges by every method, and forward-pass equivalents a pair."""
    n, codes, config = len(pairs), role_codes(model, pairs, seed), PatchedEdgesConfig(edges=EVERY)
    with bar(f"adaptive-patching, seed {seed}", HUNDREDTHS) as advance:
        ours = patched_edges(model, pairs, codes, config, progress=advance)
    with bar(f"codes among these, seed {seed}", HUNDREDTHS) as advance:
        within = patched_edges(model, pairs, codes, config, sites=edges.sites, progress=advance)
    third = pairs.subset(range(config.n_pairs(n)))
    cheaper = replace(config, budget=DISCOVERY_BUDGET)
    with bar(f"as a discovery does, seed {seed}", HUNDREDTHS) as advance:
        discovered = patched_edges(model, third, codes, cheaper, sites=edges.sites, progress=advance)
    with bar(f"eap, seed {seed}", n) as advance:
        plain = eap(model, pairs, EAPConfig(edges=EVERY), progress=advance)
    with bar(f"eap-ig, seed {seed}", HUNDREDTHS) as advance:
        path = eap_ig(model, pairs, EAPIGConfig(edges=EVERY), progress=advance)
    edge_evidence = list(zip(ours.edges, ours.evidence, strict=True))
    by_codes = [replace(edge, score=why.codes) for edge, why in edge_evidence]
    together = [replace(edge, score=why.co_occurrence) for edge, why in edge_evidence]
    return {
        "adaptive-patching": (_of(ours.edges, edges), ours.cost.forwards / n),
        "adaptive-patching, among these": (_of(within.edges, edges), within.cost.forwards / n),
        "among these, a third of the pairs": (_of(discovered.edges, edges), discovered.cost.forwards / n),
        "eap-ig": (_of(path.edges, edges), path.cost.forwards / n),
        "eap": (_of(plain.edges, edges), plain.cost.forwards / n),
        "code-vector attribution": (_of(by_codes, edges), 6.0),
        "co-occurrence given the label": (_of(together, edges), 2.0),
        "random": (np.random.default_rng(seed).random(len(edges)), 0.0),
    }


def role_codes(model: Model, pairs: PromptPairs, seed: int) -> RoleCodes:
    """Codes at the roles of every head, by codebooks fitted to these pairs."""
    outputs = RoleOutputs(pairs)
    feed(model, pairs, [outputs])
    size = 2 * len(pairs) * len(outputs.roles_) // VECTORS_PER_CODE
    config = CodebookConfig(outputs.z_.shape[-1], size, selection="matching_pursuit", seed=seed)
    vectors = {site: outputs.z_[..., site.layer, site.head, :] for site in components(model, mlps=False)}
    return RoleCodes(outputs, {str(site): Codebook(config).fit(z.flatten(0, 2)) for site, z in vectors.items()})


def _of(scores: list[EdgeScore] | tuple[EdgeScore, ...], edges: EdgeList) -> np.ndarray:
    known = {(edge.sender, edge.receiver, edge.into): abs(edge.score) for edge in scores}
    names = [str(site) for site in edges.sites]
    ends = zip(edges.sender, edges.receiver, edges.into, strict=True)
    return np.array([known.get((names[u], names[v], str(into)), 0.0) for u, v, into in ends])


def _compare(runs: list[dict], exact: np.ndarray, gaps: np.ndarray, threshold: float) -> list[dict]:
    """A row a method: its mean over seeds, and how much that is above EAP-IG's, each with its interval."""
    generator = np.random.default_rng(0)
    n, seeds = len(exact), len(runs)
    draws = [(np.arange(n), np.arange(seeds))]
    draws += [(generator.integers(n, size=n), generator.integers(seeds, size=seeds)) for _ in range(RESAMPLES)]
    # [draw, method, ROC AUC or average precision], mean over seeds
    both = []
    for rows, drawn_seeds in draws:
        truth = np.abs(exact[rows].mean(0)) >= threshold * abs(gaps[rows].mean())
        if not 0 < truth.sum() < len(truth):
            continue  # a resample with nothing to tell apart has no ROC AUC
        by_seed = {
            seed: [_agreement(truth, scores) for scores, _cost in runs[seed].values()] for seed in set(drawn_seeds)
        }
        both.append(np.mean([by_seed[seed] for seed in drawn_seeds], axis=0))
    both = np.array(both)
    less = both - both[:, [list(runs[0]).index(AGAINST)]]
    return [
        {
            "method": method,
            "forwards": float(np.mean([run[method][1] for run in runs])),
            **{name: _spread(both[:, row, which]) for which, name in enumerate(MEASURES)},
            **{f"{name}_less": _spread(less[:, row, which]) for which, name in enumerate(MEASURES)},
        }
        for row, method in enumerate(runs[0])
    ]


def show(result: dict) -> None:
    cells = []
    for row in result["rows"]:
        numbers: list[str | None] = []
        for name in MEASURES:
            numbers.append(interval(*row[name], ".3f"))
            numbers.append(None if row["method"] == AGAINST else interval(*row[f"{name}_less"], "+.3f"))
        cells.append((row["method"], f"{row['forwards']:.1f}", *numbers))
    less = f"minus {AGAINST}"
    print_table(("method", "forwards a pair", "ROC AUC", less, "average precision", less), cells)


def _spread(values: np.ndarray) -> list[float]:
    return [float(values[0]), *np.percentile(values[1:], [2.5, 97.5]).tolist()]


def _agreement(truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    return roc_auc_score(truth, scores), average_precision_score(truth, scores)


if __name__ == "__main__":
    main()
