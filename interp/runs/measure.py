"""Measuring a reference: the exact effect of every head and MLP on a task, over many pairs, kept pair by pair."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, SupportsIndex

from interp.activations.stream import BATCH_SIZE
from interp.circuits.exact_effects import Measurement
from interp.circuits.references import ExactEffects
from interp.errors import InputError, whole_number
from interp.executor import SERIAL, Job, JobProgress, Shard, Steps, Work, Workers, checked, run_work
from interp.models import Model, OneModel, describe_model
from interp.models.provenance import versions
from interp.progress import Stage, silent
from interp.prompts.pairs import Task
from interp.prompts.sampling import sample_pairs
from interp.tasks import load_task

N_PAIRS = 200
_STEPS, _BEGIN = 1000, 10  # of the bar: in all, and until the pairs are known


@dataclass
class _MeasuringWorker:
    models: OneModel


def measure_reference(
    task: Task | str,
    model: Model | str,
    *,
    n: SupportsIndex | None = None,
    seed: SupportsIndex = 1000,
    counterfactual: str | None = None,
    bos: bool = True,
    checkpoint: Path | None = None,
    batch_size: SupportsIndex = BATCH_SIZE,
    device: str | None = None,
    dtype: str = "float32",
    workers: Workers = SERIAL,
    shard: Shard | None = None,
    stage: Stage = silent,
) -> ExactEffects | None:
    """Activation patching of every component on ``n`` pairs; a killed run resumes from ``checkpoint``.

    Without ``n`` it is 200 pairs, or as many as a prompt file has. The seed differs from a discovery's default, so that
    a method is judged on prompts it has not seen. ``None`` while parts of other shards are missing.
    :class:`InputError`: the model does not score clean prompts higher than corrupt ones; looked at first, with a
    hundredth of the forward passes.

    Args:
        model: loaded; or a spec, which every worker loads by itself on ``device`` in ``dtype``.
        checkpoint: folder of the parts that are measured.
        shard: measures its parts, and no others; all have the same checkpoint.
    """
    n = None if n is None else whole_number("n", n)
    seed, batch_size, bos = whole_number("seed", seed), whole_number("batch_size", batch_size), bool(bos)
    spec = model if isinstance(model, str) else describe_model(model)["spec"]
    if spec is None:
        raise InputError("this model was not loaded by load_model: a reference must name its model")
    worker = _MeasuringWorker(OneModel(None if isinstance(model, str) else model, device=device, dtype=dtype))
    sampling = {"seed": seed, "counterfactual": counterfactual, "bos": bos}
    with TemporaryDirectory(prefix="reference-") as folder:
        parts = checkpoint or Path(folder) / "parts"
        begin = Job("pairs", _begin, (task, spec, n, sampling, parts, batch_size), (spec,), _BEGIN)
        work, log = Work(_measured(begin, spec, shard or Shard()), _STEPS), parts.with_suffix(".log.jsonl")
        return run_work(worker, work, stage("activation patching", _STEPS), workers=workers, log=log)


def _measured(begin: Job, spec: str, shard: Shard) -> Steps:
    """The reference, ``None`` while parts are missing."""
    [begun] = checked((yield [begin]))
    measurement, name = begun
    checked((yield shard.share(measurement.jobs(name, (spec,), _STEPS - _BEGIN))))
    fingerprints = [pair.fingerprint for pair in measurement.pairs]
    return measurement.reference(name, spec, fingerprints=fingerprints, versions=versions())


def _begin(
    worker: _MeasuringWorker,
    task: Task | str,
    spec: str,
    n: int | None,
    sampling: dict[str, Any],
    folder: Path,
    batch_size: int,
    _progress: JobProgress,
) -> tuple[Measurement, str]:
    loaded, model = load_task(task), worker.models(spec)
    pairs = sample_pairs(loaded, model.tokenizer, n, N_PAIRS, **sampling)
    return Measurement.begin(model, pairs, folder, mlps=True, batch_size=batch_size), f"{loaded.name}/{spec}"
