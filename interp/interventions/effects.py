"""Exact effects of components: activation patching of each on each pair, the reference that scores estimate.

effect(u) = m(clean) − m(clean run with u's output, at all positions, replaced by its value on the corrupt prompt),
one patch per component and pair (Vig et al. 2020; Wang et al. 2022, arXiv 2211.00593). Everything downstream
recomputes; MLPs and other heads stay live.

Each finished group of components of a batch of pairs is saved, and a killed run goes on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from interp.activations.stream import BATCH_SIZE, BOTH_SIDES, MetricConsumer, PairBatch, Progress, batches
from interp.errors import InputError
from interp.files import atomic_path
from interp.interventions.clean_run import PATCH_ROWS, CleanRun, PatchingEffects
from interp.models import Model, Site, describe_model, weights_checksum
from interp.prompts.pairs import PromptPairs


def activation_patching(
    model: Model,
    pairs: PromptPairs,
    sites: Sequence[Site],
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> PatchingEffects:
    """Effect of replacing each site's clean output by its corrupt one, for every pair; ``progress`` is told how many
    pair × site effects have just become known."""
    begin, metric = time.perf_counter(), MetricConsumer(len(pairs))
    runs = batches(model, pairs, [metric], batch_size=batch_size, hooks=resid_hooks(model))
    effects, forwards = patch_batches(model, pairs, sites, runs, progress=progress)
    forwards += BOTH_SIDES * len(pairs)
    clean, corrupt = metric.metric_
    return PatchingEffects(tuple(sites), effects, clean, corrupt, forwards, time.perf_counter() - begin)


def resid_hooks(model: Model) -> list[str]:
    """Hook points that :func:`patch_batches` needs of each batch."""
    return [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]


def patch_batches(
    model: Model,
    pairs: PromptPairs,
    sites: Sequence[Site],
    runs: Iterable[PairBatch],
    *,
    checkpoint: str | None = None,
    progress: Progress | None = None,
) -> tuple[Float[np.ndarray, "pair site"], float]:
    """Patch every site on the pairs of every batch, one batch after the other; the file ``checkpoint`` holds what is
    done so far.

    Returns the effects, and the forward-pass equivalents beyond those of the batches.
    """
    partial = PartialEffects.open(None if checkpoint is None else Path(checkpoint), model, pairs, sites)
    mlps, forwards = any(site.kind == "mlp" for site in sites), 0.0
    for batch in runs:
        rows = list(batch.indices)
        done = partial.done(rows)
        if progress is not None and done.any():
            progress(int(done.sum()) * len(rows))
        todo = [k for k in range(len(sites)) if not done[k]]
        if not todo:
            continue
        clean = CleanRun(model, pairs, rows, mlps=mlps)
        clean.update(batch)
        forwards += clean.prefix_cost(rows)
        for group in _groups(todo, sites, max(1, PATCH_ROWS // len(rows))):
            at = np.array([clean.component(sites[k]) for k in group])
            layers, heads = np.tile(at, (len(rows), 1)).T
            effects, cost = clean.effects(np.repeat(rows, len(group)), layers, heads)
            partial.record(rows, group, effects.reshape(len(rows), len(group)))
            forwards += cost
            if progress is not None:
                progress(len(rows) * len(group))
    return partial.effects, forwards


def _groups(todo: list[int], sites: Sequence[Site], most: int) -> Iterator[list[int]]:
    """Split into runs of sites that share layer and kind, at most ``most`` long."""
    keyed: dict[tuple, list[int]] = {}
    for k in todo:
        keyed.setdefault((sites[k].layer, sites[k].kind), []).append(k)
    for group in keyed.values():
        for begin in range(0, len(group), most):
            yield group[begin : begin + most]


class PartialEffects:
    """A [pair, site] array, NaN where nothing is known yet; kept in a safetensors file, if any, after every step."""

    def __init__(self, effects: np.ndarray, path: Path | None, fingerprint: str) -> None:
        self.effects, self.path, self.fingerprint = effects, path, fingerprint

    @classmethod
    def open(cls, path: Path | None, model: Model, pairs: PromptPairs, sites: Sequence[Site]) -> "PartialEffects":
        """Start, or resume the file at ``path``, which must be of the same model, pairs and sites."""
        effects = np.full((len(pairs), len(sites)), np.nan)
        if path is None:
            return cls(effects, path, "")  # which nothing reads: the weights need not be hashed
        fingerprint = _fingerprint(model, pairs, sites)
        if not path.exists():
            return cls(effects, path, fingerprint)
        try:
            with safe_open(path, framework="numpy") as file:
                known = (file.metadata() or {}).get("fingerprint")
                stored = file.get_tensor("effects")
        except (SafetensorError, OSError) as error:
            raise InputError(f"checkpoint {path} cannot be read ({error}): delete it") from None
        if known != fingerprint or stored.shape != effects.shape:
            raise InputError(f"checkpoint {path} belongs to another model, task, seed or set of sites: delete it")
        return cls(stored.astype(np.float64), path, fingerprint)

    def done(self, rows: list[int]) -> np.ndarray:
        """Which sites are known for all these pairs, [site] booleans."""
        return ~np.isnan(self.effects[rows]).any(0)

    def record(self, rows: list[int], columns: list[int], values: np.ndarray) -> None:
        self.effects[np.ix_(rows, columns)] = values
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                save_file({"effects": self.effects}, temporary, metadata={"fingerprint": self.fingerprint})


def _fingerprint(model: Model, pairs: PromptPairs, sites: Sequence[Site]) -> str:
    known = {key: value for key, value in describe_model(model).items() if key != "device"}
    identity = json.dumps(
        [known, weights_checksum(model), pairs.digest(), [str(s) for s in sites]], sort_keys=True, default=str
    )
    return hashlib.sha256(identity.encode()).hexdigest()
