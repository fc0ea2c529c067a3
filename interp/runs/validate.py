"""From a run to its card (:class:`~interp.evaluation.validity.Validity`): pairs that it has not seen, the same search
with other seeds, other tasks.

What cannot be told of a run is a sentence in ``left_out``.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float

from interp import MIN_PAIRS
from interp.activations.stream import BATCH_SIZE, HUNDREDTHS
from interp.circuits.circuit import Estimate, OnTask, Rival, Validity
from interp.circuits.verify import check_known_gap, verify
from interp.errors import InputError, whole_number
from interp.evaluation.stability import jaccard
from interp.evaluation.validity import Mask, intervene, lost_on, matched_random, membership_jaccard
from interp.interventions.ablation import Ablator
from interp.interventions.clean_run import CleanRun, PatchingEffects
from interp.models import Model, load_model, parse_site
from interp.planted.tasks import planted_task_names
from interp.progress import Stage, silent
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import HELD_OUT_SEED, held_out_pairs, sample_pairs
from interp.runs.folder import pairs_of, task_of
from interp.runs.run import Run
from interp.scores.registry import METHODS, load_method
from interp.tasks import load_task, task_names
from interp.tasks.registry import SHIPPED

MOST_PAIRS = 100
SEEDS = 3
TASK_PAIRS, TASK_DRAWS = 30, 3  # pairs of every other task, and random circuits run on them
DRAWS, LEAST_DRAWS, DRAW_PAIRS = 20, 5, 500
"""Random circuits: at most, at least, and in between as many as have so many prompts together."""


def validate(
    run: Run,
    model: Model | None = None,
    *,
    folder: Path | str | None = None,
    n: SupportsIndex | None = None,
    seeds: SupportsIndex = SEEDS,
    stage: Stage = silent,
) -> Validity:
    """Ask of a run's circuit what a sceptic would. :class:`InputError`: a run without heads in its circuit, a model or
    prompts that are not at hand, too few pairs, or a model that does not do the task on the judging pairs.

    Args:
        model: the run's own; loaded by its name if not given.
        folder: where the run lies, for prompts that it keeps.
        n: judging pairs, none of the run's own; if not given as many as the run has, at most 100.
        seeds: how many times the search is made again.
        stage: draws progress (:func:`interp.progress.bar`).
    """
    n = min(run.n_pairs, MOST_PAIRS) if n is None else whole_number("n", n)
    seeds = whole_number("seeds", seeds)
    if n < MIN_PAIRS or seeds < 0:
        raise InputError(f"n {n}, seeds {seeds}: at least {MIN_PAIRS} pairs and 0 seeds are needed")
    if not run.circuit.heads:
        raise InputError(f"this run of {run.task} has no heads in its circuit: there is nothing to validate")
    task = task_of(run, folder)
    if model is None:
        if run.model is None:
            raise InputError("this run does not name its model: it can be validated from Python, with the model")
        model = load_model(run.model, dtype=run.provenance.model.dtype)
    shape = model.cfg.n_layers, model.cfg.n_heads
    if run.shape != shape:
        raise InputError(f"the run is of {run.shape} layers and heads, the model has {shape}: name the run's")
    began, left_out = time.monotonic(), list[str]()
    if run.circuit.mlps:
        left_out.append("MLPs that are members stay live in every circuit: only heads are judged.")
    pool = pairs_of(run, folder, model.tokenizer, run.n_pairs)
    judging = _held_out(task, model, n, pool)
    held_out = judging is not None
    if judging is None:
        judging = pool.subset(range(min(n, len(pool))))
        left_out.append("The task has no other pairs: the run's own judge it, which flatters it.")
    batch_size = run.settings.config.get("batch_size", BATCH_SIZE)
    with stage("does the model do the task?", len(judging)) as advance:
        ablator = Ablator(model, judging, batch_size=batch_size, progress=advance)
    check_known_gap(model, judging, ablator.metric_clean, ablator.metric_corrupt)
    members, rng = _mask((head.site for head in run.circuit.heads), shape), np.random.default_rng(run.seed)
    draws = min(DRAWS, max(LEAST_DRAWS, DRAW_PAIRS // len(judging)))
    random = [matched_random(members, rng) for _ in range(draws)]
    again, refused = _search_again(run, task, model, pool, judging, seeds, stage)
    masks = [_mask(rival["heads"], shape) for rival in again]
    circuit, shares = intervene(ablator, _ranking(run), members, random, masks, seed=run.seed, stage=stage)
    rivals = [
        Rival(**rival, jaccard=jaccard(members, mask), share=share)
        for rival, mask, share in zip(again, masks, shares, strict=True)
    ]
    lost = {"lost": 1 - circuit.left.value, "lost_random": 1 - circuit.random.left_mean}
    of_run = OnTask(task=run.task, n_pairs=len(judging), **lost)
    others, forwards, undone = _other_tasks(run, model, members, random[:TASK_DRAWS], batch_size, stage)
    left_out += refused + undone
    overlap = _jaccard(run)
    if overlap is None:
        left_out.append("Bootstrap Jaccard is not told: the run holds no effects by pair.")
    return Validity(
        held_out=held_out,
        circuit=circuit,
        jaccard=overlap,
        tasks=[of_run, *others],
        rivals=rivals,
        left_out=left_out,
        forwards=ablator.forwards + forwards,
        seconds=round(time.monotonic() - began, 3),
    )


def _mask(heads: Iterable[str], shape: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    for site in map(parse_site, heads):
        mask[site.layer, site.head] = True
    return mask


def _ranking(run: Run) -> Float[np.ndarray, "layer head"]:
    """Signed effects; heads that were not checked come after those that were, by their score."""
    effects = np.array([head.effect for head in run.heads], dtype=float).reshape(run.shape)
    known = np.isfinite(effects)
    most = abs(run.scores[~known]).max(initial=0.0)
    below = 0.99 * abs(effects[known]).min() / most if most else 0.0
    return np.where(known, effects, below * run.scores)


def _held_out(task: Task, model: Model, n: int, pool: PromptPairs, seed: int = HELD_OUT_SEED) -> PromptPairs | None:
    """At most ``n`` pairs sampled anew, none of the pool's; ``None`` where the task has too few others."""
    try:
        pairs = held_out_pairs(task, model.tokenizer, n, pool, pool.counterfactual, seed=seed)
    except InputError:
        return None
    return pairs if len(pairs) >= MIN_PAIRS else None


def _search_again(
    run: Run, task: Task, model: Model, pool: PromptPairs, judging: PromptPairs, seeds: int, stage: Stage
) -> tuple[list[dict], list[str]]:
    """Seed, number of pairs and heads of every circuit that the run's search finds on other pairs; and what is missing.

    The pairs are none of the judging ones; where the task has no new ones, half of the run's own, drawn by the seed.
    """
    if run.method not in METHODS:  # a run must not have code run because it names it
        return [], [f"Rivals are not told: {run.method} is no method of this package."]
    method, circuits, left_out = load_method(run.method), list[dict](), list[str]()
    seen, mlps = {pair.clean_tokens for pair in pool}, run.universe == "heads+mlps"
    for seed in range(run.seed + 1, run.seed + 1 + seeds):
        pairs = _held_out(task, model, len(pool), judging, seed)
        new = pairs is not None and any(pair.clean_tokens not in seen for pair in pairs)
        if pairs is None or not new:
            pairs = pool.subset(np.random.default_rng(seed).permutation(len(pool))[: len(pool) // 2].tolist())
        options = run.settings.config | {"seed": seed, "checkpoint": None}
        try:
            config = method.config(**{key: options[key] for key in run.settings.config})
            if len(pairs) < MIN_PAIRS:
                raise InputError(f"{len(pairs)} pairs are too few")
            clean = CleanRun.of_first(model, pairs, mlps=mlps)
            with stage(f"seed {seed}: {run.method}", HUNDREDTHS) as advance:
                scores = method(model, pairs, config, consumers=(clean,), progress=advance)
            bounds: dict[str, Any] = {"n_candidates": run.settings.candidates, "threshold": run.settings.threshold}
            checked = verify(scores, clean, mlps=mlps, **bounds, seed=seed, stage=stage)
        except (InputError, TypeError) as error:  # options of another version of the method
            left_out.append(f"A rival from seed {seed} is not told: {error}.")
            continue
        heads = [str(site) for site in checked.members if site.kind == "attn"]
        circuits.append({"seed": seed, "n_pairs": len(pairs), "heads": heads})
        if not new:
            left_out.append(f"The rival from seed {seed} is of half of the run's pairs: the task has no others.")
    return circuits, left_out


def _other_tasks(
    run: Run, model: Model, members: Mask, random: list[Mask], batch_size: int, stage: Stage
) -> tuple[list[OnTask], float, list[str]]:
    """What the package's other tasks lose, the forward passes that this took, and what is missing."""
    names = task_names() if run.model in planted_task_names() else SHIPPED
    others, losses, refused, forwards = [name for name in names if name != run.task], [], [], 0.0
    bos = run.provenance.pairs.bos
    with stage("other tasks", len(others)) as advance:
        for name in others:
            try:
                pairs = sample_pairs(load_task(name), model.tokenizer, None, TASK_PAIRS, HELD_OUT_SEED, bos=bos)
                ablator = Ablator(model, pairs, batch_size=batch_size)
                losses.append(lost_on(ablator, members, random, seed=run.seed))
                forwards += ablator.forwards
            except InputError:
                refused.append(name)
            advance(1)
    why = "Tasks that this model does not do, or whose words its tokenizer lacks"
    return losses, forwards, [f"{why}: {', '.join(refused)}."] if refused else []


def _jaccard(run: Run) -> Estimate | None:
    """From the effects that the run holds: their columns stand in the order in which candidates are checked."""
    names = ("effects", "metric_clean", "metric_corrupt")
    if not {*names} <= run.arrays.keys():
        return None
    checked = sorted(run.checked, key=lambda part: -abs(part.score))
    sites = tuple(parse_site(part.site) for part in checked)
    effects, clean, corrupt = (run.arrays[name].astype(float) for name in names)
    measured = PatchingEffects(sites, effects, clean, corrupt, 0.0, 0.0)
    members = np.array([part.in_circuit for part in checked])
    return membership_jaccard(measured, members, threshold=run.settings.threshold, seed=run.seed)
