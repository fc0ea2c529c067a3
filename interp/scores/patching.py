"""Activation patching: the reference that every other score estimates.

Vig et al. 2020; Wang et al. 2022 (arXiv 2211.00593); "activation patching, noising" in Zhang & Nanda 2023.

effect(u) = m(clean) − m(clean run with u's output, at all positions, replaced by its value on the corrupt prompt),
one forward per component and pair. Everything downstream recomputes; MLPs and other heads stay live. It measures
one component at a time: where a backup wakes up, the effect understates what the component carries.

To be fast it (1) starts each forward at the component's layer (:mod:`interp.models.partial_forward`), half of the work
on average, (2) and at the first token in which the prompts differ, (3) puts many components of a layer into one batch,
(4) unembeds the answers at END alone. Each finished component of a batch of pairs is saved, and a killed run goes on
where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import BATCH_SIZE, PairBatch, Progress, answer_logits
from interp.errors import InputError
from interp.files import atomic_path
from interp.models import Model, Site, describe_model, has_mlps, weights_checksum
from interp.models.partial_forward import Prefix, starting_at
from interp.prompts.pairs import PromptPairs
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores

PATCH_ROWS = 64
"""Prompts per forward while patching: several components of a layer share one."""


@dataclass(frozen=True)
class PatchingConfig(MethodConfig):
    """
    Attributes:
        mlps: whether MLPs are patched too.
        checkpoint: file that holds what is done so far; ``None`` keeps nothing.
    """

    mlps: bool = True
    checkpoint: str | None = None


@method(config=PatchingConfig, most_pairs=100, most_seeds=3)
def patching(context: Context) -> Scores:
    """Score every head (and MLP) by activation patching (module docstring)."""
    layers, heads = context.model.cfg.n_layers, context.model.cfg.n_heads
    sites = components(context.model, mlps=context.config.mlps)
    found = _measure(context, sites, context.steps(len(context.pairs) * len(sites)))
    per_head = found.effects[:, : layers * heads].reshape(len(context.pairs), layers, heads)
    per_mlp = found.effects[:, layers * heads :] if len(sites) > layers * heads else None
    return Scores.from_pairs(per_head, per_mlp, exact=True)


def components(model: Model, *, mlps: bool) -> list[Site]:
    """All heads in reading order, then the MLPs if they are asked for and there are some."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    sites = [Site("attn", layer, head) for layer in layers for head in heads]
    return sites + [Site("mlp", layer) for layer in layers if mlps and has_mlps(model)]


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
    progress: Progress | None = None,
) -> PatchingEffects:
    """Effect of replacing each site's clean output by its corrupt one, for every pair.

    Args:
        sites: heads (``a5.h3``) and MLPs (``m2``).
        progress: told how many pair × site effects have just become known.
    """
    return _measure(
        Context(model, pairs, PatchingConfig(batch_size)), sites, progress or (lambda _done: None)
    )


def _measure(context: Context, sites: Sequence[Site], progress: Progress) -> PatchingEffects:
    begin, model, pairs = time.perf_counter(), context.model, context.pairs
    checkpoint = context.config.checkpoint
    partial = PartialEffects.open(checkpoint and Path(checkpoint), model, pairs, sites)
    residual = [f"blocks.{layer}.hook_resid_pre" for layer in {site.layer for site in sites}]
    for batch in context.batches(share=0.0, hooks=residual):
        rows = list(batch.indices)
        done = partial.done(rows)
        if done.any():
            progress(int(done.sum()) * len(rows))
        todo = [k for k in range(len(sites)) if not done[k]]
        if not todo:
            continue
        shared = min(pair.first_difference for pair in batch.pairs)
        prefix = Prefix(model, batch.clean.tokens[:, :shared])
        run = 1 - prefix.length / batch.clean.tokens.shape[1]
        context.forwards += len(rows) * (1 - run)
        clean = batch.clean.metric.double().cpu().numpy()
        for group in _groups(todo, sites, max(1, max(PATCH_ROWS, context.config.batch_size) // len(rows))):
            patched = _patch(model, pairs, batch, prefix, [sites[k] for k in group])
            partial.record(rows, group, clean[:, None] - patched.T)
            context.forwards += (
                len(rows) * len(group) * run * (1 - sites[group[0]].layer / model.cfg.n_layers)
            )
            progress(len(rows) * len(group))
    assert context.metric is not None
    clean, corrupt = context.metric
    seconds = time.perf_counter() - begin
    return PatchingEffects(tuple(sites), partial.effects, clean, corrupt, context.forwards, seconds)


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
    model: Model, pairs: PromptPairs, batch: PairBatch, prefix: Prefix, sites: list[Site]
) -> Float[np.ndarray, "site batch"]:
    """Metric on the clean prompts with each site (all of one layer and kind) holding its corrupt value."""
    n, copies, begin = len(batch.indices), len(sites), prefix.length
    layer, kind = sites[0].layer, sites[0].kind
    resid = batch.tape[f"blocks.{layer}.hook_resid_pre"].detach()
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
        logits = answer_logits(model, tokens, batch.pairs, pairs.metric, {sites[0].hook: patch})
    values = task_metric(logits, batch.pairs * copies, pairs.metric)
    return values.reshape(copies, n).cpu().numpy()


class PartialEffects:
    """A [pair, site] array, NaN where nothing is known yet; kept in a safetensors file, if any, after every step."""

    def __init__(self, effects: np.ndarray, path: Path | None, fingerprint: str) -> None:
        self.effects, self.path, self.fingerprint = effects, path, fingerprint

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
        [known, weights_checksum(model), pairs.digest(), [str(s) for s in sites]], sort_keys=True, default=str
    )
    return hashlib.sha256(identity.encode()).hexdigest()
