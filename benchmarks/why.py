"""Two prompts, a few heads: how many are enough, what other orders reach, and what they predict.

    python -m benchmarks.why [--seed 0] [--part 0] [--parts 1] [--threads 1] [--out benchmarks/results/why]
    python -m benchmarks.why --show

160 pairs of the shipped tasks, 20 each, and 60 ordinary ones (:mod:`benchmarks.why_pairs`), of a difference of one
logit or more; seed 1 is development, of which 24 and 16 pairs are taken. What a pair gives is kept: a killed run goes
on, and parts can run side by side.

Orders that nodes are put in: ours; attribution's, by the mean gradient of both prompts; NAP-IG's, which is EAP-IG's
integrated gradient (Hanna et al. 2024) of nodes instead of edges; heads at END by attribution; random ones. A + puts
those first that bring A's answer about, which is the stronger form. Shares have Wilson intervals.
*Sister*: the exchanged word becomes a third one; the same nodes, and what their gradient says beforehand.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, arguments, print_table
from benchmarks.why_pairs import TASKS, TEXTS, ordinary_pairs, task_pairs
from interp import load_model
from interp.contrast.explain import explain
from interp.contrast.proposals import exchanged_word, exchanges
from interp.errors import InputError
from interp.interventions.frozen import FrozenContext, Node
from interp.models import Model, Site
from interp.models.partial_forward import takes_prefix
from interp.progress import silent
from interp.prompts.encoding import PromptEncoder
from interp.stats import wilson

EACH = {0: (20, 30), 1: (3, 8)}
"""Pairs a task and a text, by seed."""
LEAST, STEPS, MOST = 1.0, 5, 20
SHOWN = (5, 10, 20)


def main() -> None:
    args = arguments(__doc__, seed=0, part=0, parts=1, threads=1, out=RESULTS / "why", show=False)
    path = args.out / f"seed-{args.seed}-part-{args.part}.jsonl"
    if not args.show:
        model, measured = load_model(), {record["number"] for record in _read(path)}
        path.parent.mkdir(parents=True, exist_ok=True)
        for number, (of, a, b) in enumerate(_pairs(model, args.seed)):
            if number % args.parts == args.part and number not in measured:
                record = {"number": number, "of": of, "a": a, "b": b, **_measure(model, a, b, args.seed)}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(_rounded(record)) + "\n")
    paths = args.out.glob(f"seed-{args.seed}-part-*.jsonl")
    _print(sorted((record for path in paths for record in _read(path)), key=lambda record: record["number"]))


def _read(path: Path) -> list[dict[str, Any]]:
    """The records of a part; a last line without an end, of a run that was killed, goes."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _pairs(model: Model, seed: int) -> Iterator[tuple[str, str, str]]:
    """More than are wanted: some are excluded."""
    of_task, of_text = EACH[seed]
    yield from task_pairs(model, of_task, seed)
    yield from ordinary_pairs(model, 3 * of_text, seed)


def _measure(model: Model, a: str, b: str, seed: int) -> dict[str, Any]:
    try:
        explanation, context = explain(model, a, b, answer=None, instead=None, chat=False, stage=silent)
    except InputError as error:
        return {"excluded": str(error)}
    difference = float(np.subtract(*context.difference))
    if abs(difference) < LEAST:
        return {"excluded": f"a difference of {difference:.2f} logits"}
    chosen = [_node(node.site, node.position) for node in explanation.nodes[: explanation.alone[-1].nodes]]
    orders = {"ours": chosen, **_orders(context, seed)}
    curves = {
        name: context.shares(context.arms([order[:n] for n in range(1, len(order) + 1)])).tolist()
        for name, order in orders.items()
    }
    kept = chosen[: explanation.kept]
    effect, estimate = (
        np.array([getattr(node, name) for node in explanation.nodes]) for name in ("effect", "estimate")
    )
    return {
        "tokens": len(explanation.tokens),
        "difference": difference,
        "kept": explanation.kept,
        "sparse": explanation.sparse,
        "needed": explanation.needed,
        "left": explanation.left,
        "uncovered": explanation.answers["uncovered"],
        "curves": curves,
        "mlps": [[row.nodes, row.restored, row.kl_removed] for row in explanation.alone_with_mlps or []],
        "estimates": estimate.tolist(),
        "effects": effect.tolist(),
        "arrows": [[arrow.direct, arrow.total] for arrow in explanation.arrows],
        "sister": _sister(model, context, a, b, kept, seed),
        "seconds": explanation.seconds,
    }


def _orders(context: FrozenContext, seed: int) -> dict[str, list[Node]]:
    """The others: by size, or those first that bring A's answer about, which the metric rewards."""
    estimates, integrated = context.estimates(), _integrated(context)
    end = np.zeros_like(estimates)
    end[:, -1] = estimates[:, -1]
    sign = np.sign(np.subtract(*context.difference))
    heads = np.flatnonzero(~context.arms([[]])[0])
    return {
        "attribution": _largest(context, np.abs(estimates)),
        "attribution +": _largest(context, sign * estimates),
        "NAP-IG": _largest(context, np.abs(integrated)),
        "NAP-IG +": _largest(context, sign * integrated),
        "END": _largest(context, np.abs(end)),
        "END +": _largest(context, sign * end),
        "random": context.nodes(np.random.default_rng(seed).permutation(heads)[:MOST]),
    }


def _node(site: str, position: int) -> Node:
    layer, head = site[1:].split(".h")
    return Node(int(layer), position, int(head))


def _largest(context: FrozenContext, scores: np.ndarray) -> list[Node]:
    return context.nodes(np.argsort(-scores, axis=None)[:MOST])


@torch.enable_grad()
def _integrated(context: FrozenContext) -> np.ndarray:
    """(z_A − z_B) · mean gradient, the gradients at points between the prompts' embeddings; heads alone."""
    begin = context.first * takes_prefix(context.model)
    steps = torch.arange(1, STEPS + 1, device=context.resid.device)[:, None, None] / STEPS
    length = context.length - context.first
    in_a, in_b = context.resid[0, 0, begin : context.length], context.resid[0, 1]
    whole = in_a.repeat(STEPS, 1, 1)
    ends = [len(pair.clean_tokens) for pair in context.pairs]
    whole[:, -length:] = torch.lerp(in_b[ends[1] - length : ends[1]], in_a[-length:], steps)
    read: list[torch.Tensor] = []

    def keep(z: torch.Tensor) -> torch.Tensor:
        read.append(z.clone())
        return read[-1]

    hooks = {Site("attn", layer).hook: keep for layer in range(context.n_layers)}
    metric = context.metric([0] * STEPS, 0, whole.requires_grad_(), hooks, begin)
    gradients = [gradient[:, -length:].mean(0) for gradient in torch.autograd.grad(metric.sum(), read)]
    scores = np.zeros(context.shape)
    change = context.z[:, 0, context.first : context.length] - context.corrupt_z[:, 0, context.first : context.length]
    scores[..., : context.n_heads] = (change * torch.stack(gradients)).sum(-1).numpy()
    return scores


def _sister(
    model: Model, context: FrozenContext, a: str, b: str, kept: list[Node], seed: int
) -> dict[str, float] | None:
    """The same nodes where the exchanged word is a third one, if the prompts differ in one word."""
    exchanged = exchanged_word(a, b)
    if exchanged is None:
        return None
    place, was, other = exchanged[0].start(), exchanged[0].group(), exchanged[1]
    encoder = PromptEncoder(model.tokenizer, bos=True)
    third = [
        tokens
        for begin, becomes, _, tokens in exchanges(model, encoder, a, context.pairs[0].clean_tokens, chat=False)
        if begin == place and becomes not in (was, other)
    ]
    if not third:
        return None
    tokens = third[int(np.random.default_rng(seed).integers(len(third)))]
    answers = context.pairs[0].answers[0], context.pairs[0].wrong_answers[0]
    sister = FrozenContext(model, context.pairs[0].clean_tokens, tokens, context.first, *answers)
    difference = float(np.subtract(*sister.difference))
    change = (sister.z[:, 0] - sister.corrupt_z[:, 0])[:, context.first : context.length]
    along = (change * context.gradient.mean(0)).sum(-1)
    predicted = sum(float(along[node.layer, node.position - context.first, node.head]) for node in kept)
    shares = sister.shares(np.concatenate([sister.arms([kept]), sister.without(kept)]))
    return {
        "difference": difference,
        "predicted": predicted,
        "restored": float(shares[0, 0]),
        "kl_removed": float(shares[1, 0]),
        "needed": 1 - float(shares[0, 1]),
    }


def _first(curve: list[list[float]], *, least_kl: float | None, most: float = 1.2) -> float:
    """The fewest nodes with f in [.8, most], and as much of KL removed; infinite if none of twenty."""
    f, kl = np.array(curve)
    fit = (f >= 0.8) & (f <= most) & (kl >= (-np.inf if least_kl is None else least_kl))
    return float(np.flatnonzero(fit)[0] + 1) if fit.any() else np.inf


def _print(records: list[dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = {"tasks": [], "ordinary": []}
    excluded = {"tasks": 0, "ordinary": 0}
    wanted = {text: EACH[0][1] if len(records) > 100 else EACH[1][1] for text in TEXTS}
    for record in records:
        group = "ordinary" if record["of"] in TEXTS else "tasks"
        if group == "ordinary" and wanted[record["of"]] == 0:
            continue
        if "excluded" in record:
            excluded[group] += 1
            continue
        if group == "ordinary":
            wanted[record["of"]] -= 1
        groups[group].append(record)
    rows: list[tuple] = []
    for group, kept in groups.items():
        title = f"{group}, {len(kept)} ({excluded[group]} excluded)"
        for order in kept[0]["curves"] if kept else ():
            curves = [record["curves"][order] for record in kept]
            cells = [_quartiles([_first(c, least_kl=None, most=np.inf) for c in curves])]
            cells += [_quartiles([_first(c, least_kl=least) for c in curves]) for least in (None, 0.8)]
            for row in (0, 1):
                at = np.array([[np.array(c)[row][min(n, len(c[row])) - 1] for n in SHOWN] for c in curves])
                cells.append(" ".join(f"{x:.2f}" for x in np.median(at, 0)))
            rows.append((title, order, *cells))
            title = ""
    columns = ("", "order", "f ≥ .8", "f in [.8, 1.2]", "and KL ≥ .8", f"f by {SHOWN}", "KL")
    print_table(columns, rows, "nodes until: quartiles and share reached", left=2)
    by_task = {task: [x for x in groups["tasks"] if x["of"].split()[0] == task] for task in TASKS}
    rows = [(name, *_predictions(kept)) for name, kept in {**groups, **by_task}.items() if kept]
    columns = ("pairs", "joint", "needed", "r (slope)", "with MLPs", "sister: f, needed", "sign, r", "arrows", "s")
    print_table(("", *columns), rows, "what they predict; medians")


def _predictions(kept: list[dict[str, Any]]) -> tuple[Any, ...]:
    """A row of the second table. ``arrows``: how many of them have a total of the same sign."""
    joint = [_first(x["curves"]["ours"], least_kl=0.8) for x in kept]
    r = [np.corrcoef(x["estimates"], x["effects"])[0, 1] for x in kept]
    slope = [np.polyfit(x["estimates"], x["effects"], 1)[0] for x in kept]
    mlps = [min((n for n, f, _ in x["mlps"] if 0.8 <= f <= 1.2), default=np.inf) for x in kept]
    sisters = [x["sister"] for x in kept if x["sister"] and abs(x["sister"]["difference"]) >= LEAST]
    same, predicted = "", ""
    if len(sisters) > 2:
        real, foretold = (np.array([s[key] for s in sisters]) for key in ("difference", "predicted"))
        restored, needed = (np.median([s[key] for s in sisters]) for key in ("restored", "needed"))
        same = f"{restored:.2f}, {needed:.2f} of {len(sisters)}"
        predicted = f"{np.mean(np.sign(real) == np.sign(foretold)):.2f}, {np.corrcoef(real, foretold)[0, 1]:.2f}"
    arrows = np.array([arrow for x in kept for arrow in x["arrows"]]).reshape(-1, 2)
    agree = np.sign(arrows[:, 0]) == np.sign(arrows[:, 1])
    return (
        len(kept),
        _quartiles(joint),
        f"{np.median([x['needed'] for x in kept]):.2f}",
        f"{np.median(r):.2f} ({np.median(slope):.2f})",
        _quartiles(mlps),
        same,
        predicted,
        f"{np.mean(agree):.2f} of {len(arrows)}" if len(arrows) else "",
        f"{np.median([sum(x['seconds'].values()) for x in kept]):.1f}",
    )


def _quartiles(values: list[float]) -> str:
    quartiles = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    reached = int(np.isfinite(values).sum())
    low, high = wilson(reached, len(values))
    words = " / ".join("never" if np.isinf(x) else f"{x:.0f}" for x in quartiles)
    return f"{words} ({reached / len(values):.0%} [{low:.0%}, {high:.0%}])"


if __name__ == "__main__":
    main()
