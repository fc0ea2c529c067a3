"""The whole reproduction of one seed: train, measure, compare with controls and with what was published."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tokfsm.accuracy import SAMPLED, held_out, language_scores, one_digit_off, top10_overlap, transitions
from benchmarks.tokfsm.coded import Books
from benchmarks.tokfsm.data import BOS, Machine, generator_of, sequences
from benchmarks.tokfsm.intervention import PAIRS, normalised
from benchmarks.tokfsm.neox import At, NeoX
from benchmarks.tokfsm.recipe import Recipe
from benchmarks.tokfsm.training import FIT, Training
from benchmarks.tokfsm.usage import alive, neuron_precision, purities, state_precision
from interp.progress import Stage, silent

FORMAT = 1
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_EVERY = 200
"""Steps: about a minute on one core."""
EVALUATED, SAMPLES, CLASSIFIED = 2048, 1000, 64
"""Sequences held out, sampled, and read for state precision (as many to choose codes as to judge them)."""
CHOOSE, JUDGE, RANDOM = 104, 105, 106
"""Purposes of draws."""


def train(
    recipe: Recipe, folder: Path, *, until: int | None = None, device: str = "cpu", stage: Stage = silent
) -> Training:
    """Train to a step, or to the end, or go on from the checkpoint in ``folder``.

    Raises:
        InputError: a checkpoint of another recipe, or a damaged one.
    """
    path = folder / CHECKPOINT
    training = Training.load(path, recipe, device) if path.is_file() else Training(recipe, device)
    training.run(path, every=CHECKPOINT_EVERY, until=until, stage=stage)
    return training


def measure(
    training: Training, *, evaluated: int = EVALUATED, samples: int = SAMPLES, pairs: int = PAIRS, stage: Stage = silent
) -> dict[str, Any]:
    """Every number of a finished run and its controls, as JSON."""
    began = time.monotonic()
    recipe, machine = training.recipe, training.machine
    model, books = training.model.eval(), training.books
    batches = held_out(machine, evaluated, recipe.seed)
    plain = training.plain_model()
    untrained = Books(recipe.shape, recipe.n_codes, recipe.seed).to(training.device)
    untrained.fit(plain, sequences(machine, recipe.fit_sequences, recipe.seed, FIT).to(training.device))
    arms: dict[str, tuple[NeoX, At | None]] = {
        "codebooks": (model, books.run()),
        "no codebooks": (plain, None),
        "untrained k-means": (plain, untrained.run()),
        "random codes": (model, books.run(_random_codes(recipe))),
    }
    scores = {}
    with stage("measuring", len(arms) + 2) as done:
        for name, (network, at) in arms.items():
            scores[name] = _scores(network, machine, at, batches, samples)
            done(1)
        coded = {"codebooks": (model, books), "untrained k-means": (plain, untrained)}
        read = {name: _read(machine, recipe, *pair, batches) for name, pair in coded.items()}
        done(1)
        set_ = {name: normalised(*pair, machine, n=pairs, seed=recipe.seed) for name, pair in coded.items()}
        set_["another pair's codes"] = normalised(model, books, machine, n=pairs, seed=recipe.seed, shuffled=True)
        done(1)
    return {
        "scores": scores,
        "codes": read,
        "intervention": set_,
        "n": {"evaluated": evaluated, "samples": samples, "pairs": pairs, "classified": CLASSIFIED},
        "seconds": time.monotonic() - began,
    }


def _random_codes(recipe: Recipe):
    generator = generator_of(recipe.seed, RANDOM)

    def edit(_site: str, ids: Tensor) -> Tensor:
        return torch.randint(recipe.n_codes, ids.shape, generator=generator).to(ids.device, ids.dtype)

    return edit


def _scores(
    model: NeoX, machine: Machine, at: At | None, batches: list[Tensor], samples: int
) -> dict[str, dict[str, float]]:
    language = language_scores(model, machine, batches, at)
    texts = model.sample(samples, generator_of(0, SAMPLED), bos=BOS, at=at)
    sampled = transitions(machine, texts)
    return {
        "loss": _interval(language.loss, share=False),
        "token_accuracy": _interval(language.right),
        "transition_accuracy": _interval(sampled.mean(1)),
        "first_transition": _interval(sampled[:, 0]),
        "top10_overlap": _interval(top10_overlap(machine, model, at)),
        "forbidden": _interval(language.forbidden, share=False),
        "one_digit_off": _interval(one_digit_off(machine, texts).mean(1)),
    }


def _interval(values: Tensor, *, share: bool = True) -> dict[str, float]:
    """Mean and its 95 % interval from the standard error over sequences; over states where values are of states.

    Args:
        share: of something, so that the interval ends at 0 and 1.
    """
    mean, half = float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5
    low, high = mean - half, mean + half
    return {"mean": mean, "low": max(0.0, low), "high": min(1.0, high) if share else high}


def _read(machine: Machine, recipe: Recipe, model: NeoX, books: Books, batches: list[Tensor]) -> dict[str, Any]:
    chosen_on = sequences(machine, CLASSIFIED, recipe.seed, CHOOSE)
    judged_on = sequences(machine, CLASSIFIED, recipe.seed, JUDGE)
    classified = state_precision(model, books, chosen_on, judged_on)
    living = alive(model, books, batches)
    every = [rate for rates in living.values() for rate in rates]
    neurons = neuron_precision(model, books, chosen_on, judged_on, classified["best"]["recall"])
    return {
        "alive": living,
        "alive_mean": sum(every) / len(every),
        "purity": purities(model, books, machine),
        "state": {
            site: {name: _interval(values) for name, values in parts.items()} for site, parts in classified.items()
        },
        "neuron_precision": _interval(neurons),
    }
