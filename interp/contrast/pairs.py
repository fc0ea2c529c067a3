"""All pairs of a task explained, each for itself, and the heads that come again."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from interp.contrast.explain import why
from interp.contrast.explanation import Why
from interp.errors import InputError, whole_number
from interp.executor import SERIAL, Job, JobProgress, Work, Workers, checked, run_work
from interp.files import read_json, write_json
from interp.models import Model, OneModel, describe_model, load_tokenizer
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPair, Task
from interp.prompts.sampling import sample_pairs
from interp.stats import mean_interval
from interp.tasks import load_task

N_PAIRS = 20
_LINES = 10  # explanations, and heads, that are told of


@dataclass(frozen=True)
class Refused:
    """A pair that cannot be explained, and why."""

    a: str
    b: str
    reason: str


@dataclass(frozen=True)
class KeptHead:
    """A head, wherever it is kept.

    ``kept_in``: in how many explanations it is among the kept. ``share``: of the difference, the sum of its effects at
    kept tokens, nothing where it is not kept; the mean over explanations. ``low``, ``high``: a bootstrap interval.
    ``chance``: that it is kept in so many, were as many heads of the model kept in each, drawn at random.
    """

    site: str
    kept_in: int
    share: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class ExplainedPairs:
    task: str
    explanations: list[Why]  # one a pair, without seconds: they are the same wherever they were made
    refused: list[Refused]
    heads: list[KeptHead]  # all that some explanation keeps, those of most explanations first

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"explanations": [explanation.as_json() for explanation in self.explanations]}

    def text(self) -> str:
        n, refused = len(self.explanations), len(self.refused)
        sparse = [explanation.kept for explanation in self.explanations if explanation.sparse]
        lines = [
            f"{self.task}: {n} pairs explained, {refused} refused. In {len(sparse)} at most twenty heads at tokens "
            "are enough" + (f", {int(np.median(sparse))} in the median of these" if sparse else "")
        ]
        for explanation in self.explanations[:_LINES]:
            first, second = (repr(explanation.answers[name]["token"]) for name in ("answer", "instead"))
            count = f"{explanation.kept:>3} heads at tokens restore {explanation.alone_kept.restored:z.0%}"
            lines.append(f"  {count:<36}{first} less {second}: {explanation.a!r:.70}")
        lines += [f"  and {n - _LINES} more"] * (n > _LINES)
        lines += [f"  refused: {refusal.reason}" for refusal in self.refused[:1]]
        lines.append(
            f"{'kept head':<12}{'in':>4}{'by chance':>11}{'share of the difference, mean':>33}{'interval':>16}"
        )
        for head in self.heads[:_LINES]:
            shares = f"{head.share:>z33.0%}{f'{head.low:z.0%} to {head.high:z.0%}':>16}"
            lines.append(f"  {head.site:<10}{head.kept_in:>4}{head.chance:>11.0e}{shares}")
        return "\n".join(lines)


def why_pairs(
    model: Model | str,
    task: str | Path | Task,
    *,
    n: SupportsIndex | None = None,
    seed: SupportsIndex = 0,
    counterfactual: str | None = None,
    checkpoint: Path | None = None,
    device: str | None = None,
    dtype: str = "float32",
    workers: Workers = SERIAL,
    stage: Stage = silent,
) -> ExplainedPairs:
    """:func:`~interp.contrast.explain.why` of the clean against the corrupt prompt of every pair of a task.

    >>> explained = why_pairs("planted-induction", "planted-induction", n=2)
    >>> [head.site for head in explained.heads], explained.heads[0].kept_in
    (['a0.h3', 'a1.h1', 'a2.h4'], 2)

    Answers are those of the pair where it has one and one wrong one, else the tokens that KL names.
    :class:`InputError`: no pair can be explained.

    Args:
        model: loaded; or a spec, which every worker loads by itself on ``device`` in ``dtype``.
        task: as in :func:`interp.find_circuit`; a prompt file holds pairs of one's own.
        n: pairs; 20 if not given, or as many as a prompt file has.
        checkpoint: folder in which each explanation is kept once it is made; a killed run goes on from there.
    """
    seed, loaded = whole_number("seed", seed), load_task(task)
    spec = model if isinstance(model, str) else describe_model(model)["spec"]
    if spec is None:
        raise InputError("this model was not loaded by load_model: give it a name by which workers find it")
    held = None if isinstance(model, str) else model
    tokenizer = load_tokenizer(spec) if held is None else held.tokenizer
    pairs = sample_pairs(
        loaded, tokenizer, None if n is None else whole_number("n", n, 1), N_PAIRS, seed, counterfactual
    )
    models = OneModel(held, device=device, dtype=dtype)
    jobs = [Job(f"pair {i}", _explain, (spec, pair, checkpoint), (spec,)) for i, pair in enumerate(pairs)]
    results = run_work(models, Work.all(jobs), stage("pairs explained", len(pairs)), workers=workers)
    refused = [
        Refused(pair.clean, pair.corrupt, str(result))
        for pair, result in zip(pairs, results, strict=True)
        if isinstance(result, InputError)
    ]
    if len(refused) == len(pairs):
        checked(results)
    explanations = [result for result in results if isinstance(result, Why)]
    return ExplainedPairs(loaded.name, explanations, refused, _heads(explanations))


def _explain(models: OneModel, spec: str, pair: PromptPair, checkpoint: Path | None, _progress: JobProgress) -> Why:
    path = None
    if checkpoint is not None:
        made_of = json.dumps([spec, models.dtype, pair.fingerprint])
        path = checkpoint / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.json"
        if path.is_file():
            return Why.of_json(read_json(path))
    model, answers = models(spec), {}
    if len(pair.answers) == len(pair.wrong_answers) == 1:
        of_pair = {"answer": pair.answers, "instead": pair.wrong_answers}
        answers = {name: model.tokenizer.decode(tokens) for name, tokens in of_pair.items()}
    explanation = replace(why(model, pair.clean, pair.corrupt, **answers), seconds={})
    if path is not None:
        write_json(path, explanation.as_json())
    return explanation


def _heads(explanations: list[Why]) -> list[KeptHead]:
    shares: dict[str, np.ndarray] = {}
    counts = Counter[str]()
    kept_shares = []
    for i, explanation in enumerate(explanations):
        gap = explanation.difference["a"] - explanation.difference["b"]
        kept = explanation.nodes[: explanation.kept]
        sites = {node.site for node in kept}
        counts.update(sites)
        kept_shares.append(len(sites) / max(explanation.n_heads, len(sites), 1))
        for node in kept:
            shares.setdefault(node.site, np.zeros(len(explanations)))[i] += node.effect / gap
    heads = []
    for site, values in shares.items():
        (low,), (high,) = mean_interval(values[:, None], 0) if len(values) > 1 else (values, values)
        numbers = float(values.mean()), float(low), float(high), _tail(kept_shares, counts[site])
        heads.append(KeptHead(site, counts[site], *numbers))
    return sorted(heads, key=lambda head: (-head.kept_in, -abs(head.share), head.site))


def _tail(probabilities: list[float], least: int) -> float:
    """That so many events happen at least, each with its probability."""
    counts = np.ones(1)  # the probability of 0, 1, … events
    for p in probabilities:
        counts = np.convolve(counts, [1 - p, p])
    return float(counts[least:].sum())
