"""Activation patching: the reference that every other score estimates.

Vig et al. 2020; Wang et al. 2022 (arXiv 2211.00593); "activation patching, noising" in Zhang & Nanda 2023.

effect(u) = m(clean) − m(clean run with u's output, at all positions, replaced by its value on the corrupt prompt),
one forward per component and pair. Everything downstream recomputes; MLPs and other heads stay live. It measures
one component at a time: where a backup wakes up, the effect understates what the component carries.

To be fast it (1) starts each forward at the component's layer (:mod:`interp.models.partial_forward`), half of the work on
average, (2) and at the first token in which the prompts differ (:mod:`interp.models.partial_forward`), (3) puts many components
of a layer into one batch, (4) unembeds END only. Each finished component of a batch of pairs is saved, and a killed run
goes on where it stopped.

Effects measured so far, on disk after every step, so that a killed sweep goes on where it stopped.
"""

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import (
    BATCH_SIZE,
    Consumer,
    PairBatch,
    Progress,
    end_logits,
    equal_length_batches,
    run_batch,
)
from interp.errors import InputError
from interp.files import atomic_path
from interp.models import Model, Site, describe_model, has_mlps, hooked, weights_checksum
from interp.models.partial_forward import Prefix, starting_at
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Cost, Scores


class PartialEffects:
    """A [pair, site] array with NaN where nothing is known yet, mirrored to a safetensors file if there is one."""

    def __init__(self, effects: np.ndarray, path: Path | None, fingerprint: str) -> None:
        self.effects = effects
        self.path = path
        self.fingerprint = fingerprint

    @classmethod
    def open(
        cls, path: Path | None, model: Model, pairs: PromptPairs, sites: Sequence[Site]
    ) -> "PartialEffects":
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
            raise InputError(
                f"checkpoint {path} cannot be read ({error}): delete it to start again"
            ) from None
        if known != fingerprint or stored.shape != effects.shape:
            raise InputError(
                f"checkpoint {path} belongs to another model, task, seed or set of sites: "
                "delete it, or give another path"
            )
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
        [known, weights_checksum(model), pairs.digest(), [str(s) for s in sites]],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(identity.encode()).hexdigest()


PATCH_ROWS = 64
"""Prompts per forward while patching: several components of a layer share one."""


@dataclass(frozen=True)
class PatchingConfig:
    """
    Attributes:
        batch_size: pairs whose base runs share a forward.
        mlps: whether MLPs are patched too.
        checkpoint: file that holds what is done so far; ``None`` keeps nothing.
    """

    batch_size: int = BATCH_SIZE
    mlps: bool = True
    checkpoint: str | None = None


def patching(
    model: Model,
    pairs: PromptPairs,
    config: PatchingConfig = PatchingConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score every head (and MLP) by activation patching (module docstring)."""
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    sites = [Site("attn", layer, head) for layer in range(layers) for head in range(heads)]
    with_mlps = config.mlps and has_mlps(model)
    if with_mlps:
        sites += [Site("mlp", layer) for layer in range(layers)]
    measured = activation_patching(
        model,
        pairs,
        sites,
        batch_size=config.batch_size,
        checkpoint=None if config.checkpoint is None else Path(config.checkpoint),
        consumers=consumers,
        progress=progress,
    )
    per_head = measured.effects[:, : layers * heads].reshape(len(pairs), layers, heads)
    per_mlp = measured.effects[:, layers * heads :] if with_mlps else None
    return Scores(
        method="patching",
        heads=per_head.mean(0),
        heads_per_pair=per_head,
        mlps=None if per_mlp is None else per_mlp.mean(0),
        mlps_per_pair=per_mlp,
        signed=True,
        cost=Cost(measured.forwards, {"patching": measured.seconds}),
        config=asdict(config),
        metric_clean=measured.metric_clean,
        metric_corrupt=measured.metric_corrupt,
        provenance=pairs.provenance(),
    )


@dataclass(frozen=True)
class PatchingEffects:
    """Exact effects of some sites, before the mean over pairs.

    ``forwards`` counts layers and positions that were run: a patch at half the depth of prompts that begin to differ
    at half their length is a quarter of a forward.
    """

    sites: tuple[Site, ...]
    effects: Float[np.ndarray, "pair site"]
    metric_clean: Float[np.ndarray, " pair"]
    metric_corrupt: Float[np.ndarray, " pair"]
    forwards: float
    seconds: float


def activation_patching(
    model: Model,
    pairs: PromptPairs,
    sites: Sequence[Site],
    *,
    batch_size: int = BATCH_SIZE,
    checkpoint: Path | None = None,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> PatchingEffects:
    """Effect of patching each site's clean output for its corrupt one, for every pair.

    Args:
        sites: heads (``a5.h3``) and MLPs (``m2``).
        progress: told how many pair × site effects have just become known.
    """
    begin = time.perf_counter()
    partial = PartialEffects.open(checkpoint, model, pairs, sites)
    metric = np.zeros((2, len(pairs)))
    forwards = 0.0
    for indices in equal_length_batches(pairs, batch_size):
        rows = list(indices)
        with _kept_residuals(model, {site.layer for site in sites}) as residuals:
            batch = run_batch(
                model,
                pairs,
                indices,
                gradients=any(consumer.needs_gradients for consumer in consumers),
                patterns=any(consumer.needs_patterns for consumer in consumers),
            )
        for consumer in consumers:
            consumer.update(batch)
        metric[0, rows] = batch.clean.metric.cpu().numpy()
        metric[1, rows] = batch.corrupt.metric.cpu().numpy()
        forwards += 2 * len(rows)
        done = partial.done(rows)
        if progress is not None and done.any():
            progress(int(done.sum()) * len(rows))
        todo = [k for k in range(len(sites)) if not done[k]]
        if not todo:
            continue
        shared = min(pair.first_difference for pair in batch.pairs)
        prefix = Prefix(model, batch.clean.tokens[:, :shared])
        run = 1 - prefix.length / batch.clean.tokens.shape[1]
        forwards += len(rows) * (1 - run)
        for group in _groups(todo, sites, max(1, max(PATCH_ROWS, batch_size) // len(rows))):
            layer = sites[group[0]].layer
            patched = _patch(model, pairs, batch, prefix, residuals[layer], [sites[k] for k in group])
            partial.record(rows, group, metric[0, rows][:, None] - patched.T)
            forwards += len(rows) * len(group) * run * (1 - layer / model.cfg.n_layers)
            if progress is not None:
                progress(len(rows) * len(group))
    return PatchingEffects(
        tuple(sites), partial.effects, metric[0], metric[1], forwards, time.perf_counter() - begin
    )


@contextmanager
def _kept_residuals(model: Model, layers: set[int]) -> Iterator[dict[int, Tensor]]:
    """Keeps the clean prompts' residual stream at the input of the layers named, during :func:`run_batch`."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, resid: Tensor) -> None:
        # run_batch runs the corrupt prompts first and the clean ones last: what stays is the clean run's
        kept[layer] = resid.detach().clone()

    with hooked(
        model, {f"blocks.{layer}.hook_resid_pre": functools.partial(keep, layer) for layer in layers}
    ):
        yield kept


def _groups(todo: list[int], sites: Sequence[Site], most: int) -> Iterator[list[int]]:
    """Split into runs of sites that share layer and kind, at most ``most`` long."""
    keyed: dict[tuple, list[int]] = {}
    for k in todo:
        keyed.setdefault((sites[k].layer, sites[k].kind), []).append(k)
    for group in keyed.values():
        for begin in range(0, len(group), most):
            yield group[begin : begin + most]


@torch.no_grad()
def _patch(
    model: Model, pairs: PromptPairs, batch: PairBatch, prefix: Prefix, resid: Tensor, sites: list[Site]
) -> Float[np.ndarray, "site batch"]:
    """Metric on the clean prompts with each site (all of one layer and kind) holding its corrupt value."""
    n, copies, begin = len(batch.indices), len(sites), prefix.length
    layer, kind = sites[0].layer, sites[0].kind
    tokens = batch.clean.tokens[:, begin:].repeat(copies, 1)

    def patch(activation: Tensor) -> Tensor:
        if kind == "mlp":
            return batch.corrupt.mlp[layer][:, begin:].to(activation.dtype)
        patched = activation.clone()
        for copy, site in enumerate(sites):
            rows = slice(copy * n, (copy + 1) * n)
            patched[rows, :, site.head] = batch.corrupt.z[layer][:, begin:, site.head].to(activation.dtype)
        return patched

    with starting_at(model, layer, resid[:, begin:].repeat(copies, 1, 1)), prefix.before(model):
        logits = end_logits(model, tokens, {sites[0].hook: patch})
    values = task_metric(logits, batch.pairs * copies, pairs.metric)
    return values.reshape(copies, n).cpu().numpy()
