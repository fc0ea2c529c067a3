"""Measuring a reference: the exact effect of every head and MLP on a task, over many pairs, kept pair by pair."""

import datetime
from pathlib import Path
from typing import SupportsIndex

from interp.activations.stream import BATCH_SIZE, HUNDREDTHS
from interp.circuits.references import ExactEffects
from interp.circuits.verify import check_gap
from interp.errors import InputError, whole_number
from interp.models import Model, describe_model
from interp.models.provenance import versions
from interp.progress import Stage, silent
from interp.prompts.pairs import Task
from interp.prompts.sampling import sample_pairs
from interp.scores.patching import PatchingConfig, patching

N_PAIRS = 200


def measure_reference(
    task: Task,
    model: Model,
    *,
    n: SupportsIndex | None = None,
    seed: SupportsIndex = 1000,
    counterfactual: str | None = None,
    bos: bool = True,
    checkpoint: Path | None = None,
    batch_size: SupportsIndex = BATCH_SIZE,
    stage: Stage = silent,
) -> ExactEffects:
    """Activation patching of every component on ``n`` pairs; a killed run resumes from ``checkpoint``.

    Without ``n`` it is 200 pairs, or as many as a prompt file has. The seed differs from a discovery's default, so that
    a method is judged on prompts it has not seen.

    Raises:
        InputError: the model does not score clean prompts higher than corrupt ones; looked at first, with a hundredth
            of the forward passes.
    """
    n = None if n is None else whole_number("n", n)
    seed, batch_size, bos = whole_number("seed", seed), whole_number("batch size", batch_size), bool(bos)
    spec = describe_model(model)["spec"]
    if spec is None:
        raise InputError("this model was not loaded by load_model: a reference must name its model")
    pairs = sample_pairs(task, model.tokenizer, n, N_PAIRS, seed, counterfactual, bos=bos)
    check_gap(model, pairs, batch_size=batch_size, stage=stage)
    config = PatchingConfig(batch_size=batch_size, checkpoint=None if checkpoint is None else str(checkpoint))
    with stage("activation patching", HUNDREDTHS) as advance:
        scores = patching(model, pairs, config, progress=advance)
    provenance = {
        "fingerprints": [pair.fingerprint for pair in pairs],
        "model_details": describe_model(model),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    return ExactEffects.from_scores(scores, name=f"{task.name}/{spec}", model=spec, provenance=provenance)
