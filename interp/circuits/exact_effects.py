"""Measured references: exact effects of every head, as ground truth where no circuit was published.

The effect of a component on a pair is the fall of the task metric when its output on the clean prompt, at
all positions, is patched with its output on the corrupt prompt (resample ablation, nothing else frozen):
positive = it helps. One file holds one task on one model; what depends on a threshold is computed when asked.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.numpy import save_file

from interp.defaults import THRESHOLD
from interp.errors import InputError
from interp.files import atomic_path, read_tensors
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Scores

FORMAT = 1
KIND = "measured reference"
_TOLERANCE = 1e-3
"""Largest rounding error of a stored effect, as a share of the gap."""


@dataclass(frozen=True)
class ExactEffects:
    """Exact effects of all heads (and MLPs) of one model on one task.

    Attributes:
        heads, mlps: effect of each component on each pair, in units of the metric; ``mlps`` is ``None`` for
            attention-only models.
        metric_clean, metric_corrupt: the task metric of the untouched model on both prompts of each pair.
        provenance: model, task, counterfactual, seed, bos, n_pairs, fingerprints of the pairs, versions; JSON-able.
    """

    name: str
    task: str
    model: str
    heads: Float[np.ndarray, "pair layer head"]
    mlps: Float[np.ndarray, "pair layer"] | None
    metric_clean: Float[np.ndarray, " pair"]
    metric_corrupt: Float[np.ndarray, " pair"]
    provenance: dict

    @property
    def n_layers(self) -> int:
        return self.heads.shape[1]

    @property
    def n_heads(self) -> int:
        return self.heads.shape[2]

    @property
    def n_pairs(self) -> int:
        return self.heads.shape[0]

    @property
    def gap(self) -> float:
        """Mean metric on clean minus mean metric on corrupt prompts."""
        return float(self.metric_clean.mean() - self.metric_corrupt.mean())

    def effects(self) -> Float[np.ndarray, "layer head"]:
        """Mean effect of every head."""
        return self.heads.mean(axis=0)

    def members(self, threshold: float = THRESHOLD) -> Bool[np.ndarray, "layer head"]:
        """Heads whose absolute mean effect is at least ``threshold`` of the gap.

        Raises:
            InputError: the metric does not fall from clean to corrupt prompts, so that it has no shares.
        """
        return np.abs(self.effects()) >= threshold * self._positive_gap()

    def effect_interval(
        self, n_boot: int = 1000, seed: int = 0
    ) -> tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "layer head"]]:
        """95 % bootstrap interval (over pairs) of every head's mean effect: lower and upper end."""
        low, high = np.percentile(self._resampled(n_boot, seed)[0], [2.5, 97.5], axis=0)
        return low, high

    def member_share(
        self, threshold: float = THRESHOLD, n_boot: int = 1000, seed: int = 0
    ) -> Float[np.ndarray, "layer head"]:
        """Share of bootstrap resamples of the pairs in which each head is a member.

        Heads between .025 and .975 are the ones that a new draw of prompts may move across the threshold.
        """
        self._positive_gap()
        effects, gaps = self._resampled(n_boot, seed)
        gaps = gaps[:, None, None]
        return ((np.abs(effects) >= threshold * gaps) & (gaps > 0)).mean(axis=0)

    def shared(self, pairs: PromptPairs) -> int | None:
        """How many of ``pairs`` are among those measured; ``None`` where the file does not say which those were."""
        measured = self.provenance.get("fingerprints")
        return None if measured is None else sum(pair.fingerprint in measured for pair in pairs)

    def measures(self, pairs: PromptPairs) -> bool:
        """Whether its effects are of the same kind of exchange as effects on ``pairs`` would be.

        Corrupt prompts of another kind, or prompts without BOS, ask for another quantity.
        """
        made = self.provenance
        return (made["counterfactual"], made["bos"]) == (pairs.counterfactual, pairs.bos)

    def _positive_gap(self) -> float:
        if self.gap <= 0:
            raise InputError(
                f"reference {self.name!r} has gap {self.gap:.3g}: "
                "the metric must fall from clean to corrupt prompts for a head to be a member"
            )
        return self.gap

    def _resampled(self, n_boot: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        n = self.n_pairs
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot) / n
        effects = (weights @ self.heads.reshape(n, -1)).reshape(n_boot, self.n_layers, self.n_heads)
        return effects, weights @ (self.metric_clean - self.metric_corrupt)

    @classmethod
    def from_scores(cls, scores: Scores, *, name: str, model: str, provenance: dict) -> "ExactEffects":
        """Keep the outcome of activation patching (:mod:`interp.scores.patching`) as a reference.

        Args:
            scores: with per-pair effects, metrics and the pairs' provenance.
            name: ``task/model``, as it is asked for later.
            provenance: what the scores do not know, such as versions and the commit of the model.
        """
        parts = (scores.heads_per_pair, scores.metric_clean, scores.metric_corrupt)
        if not scores.exact or any(part is None for part in parts):
            raise InputError(f"scores of method {scores.method!r}: a reference needs exact effects per pair")
        heads, clean, corrupt = parts
        task = scores.provenance["task"]
        merged = {**scores.provenance, "model": model, **provenance}
        return cls(name, task, model, heads, scores.mlps_per_pair, clean, corrupt, merged)

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, provenance in its header.

        Effects are stored as int16 with one scale per tensor, an error of at most 1/65,534 of the largest;
        where that could exceed a thousandth of the gap they are stored as float32.
        """
        tensors = {
            "metric_clean": np.ascontiguousarray(self.metric_clean, dtype=np.float32),
            "metric_corrupt": np.ascontiguousarray(self.metric_corrupt, dtype=np.float32),
        }
        scales = {}
        for key, values in (("heads", self.heads), ("mlps", self.mlps)):
            if values is not None:
                tensors[key], scales[key] = _pack(values, tolerance=_TOLERANCE * abs(self.gap))
        header = {
            "kind": KIND,
            "format": FORMAT,
            "name": self.name,
            "task": self.task,
            "model": self.model,
            "scales": scales,
            "provenance": self.provenance,
        }
        metadata = {"interp": json.dumps(header, allow_nan=False)}
        with atomic_path(Path(path)) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path | str) -> "ExactEffects":
        """Read what :meth:`save` wrote; raises :class:`InputError` for anything else."""
        try:
            tensors, words = read_tensors(path, "numpy")
            header = json.loads(words["interp"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path}: not a measured reference ({error})") from None
        if not isinstance(header, dict) or (header.get("kind"), header.get("format")) != (KIND, FORMAT):
            raise InputError(f"{path}: not a measured reference of format {FORMAT}")
        texts, made = (header.get(key) for key in ("name", "task", "model")), header.get("provenance")
        if not all(isinstance(text, str) for text in texts) or not isinstance(made, dict):
            raise InputError(
                f"{path}: not a measured reference (its header lacks name, task, model or provenance)"
            )
        known = made.get("fingerprints", [])
        if not isinstance(known, list) or not all(isinstance(one, str) for one in known):
            raise InputError(f"{path}: damaged measured reference: its fingerprints are no list of texts")
        try:
            scales = header["scales"]
            loaded = cls(
                name=header["name"],
                task=header["task"],
                model=header["model"],
                heads=_unpack(tensors["heads"], scales["heads"]),
                mlps=_unpack(tensors["mlps"], scales["mlps"]) if "mlps" in tensors else None,
                metric_clean=tensors["metric_clean"].astype(np.float64),
                metric_corrupt=tensors["metric_corrupt"].astype(np.float64),
                provenance=header["provenance"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged measured reference: {error!r}") from None
        loaded._check(path)
        return loaded

    def _check(self, path: Path | str) -> None:
        metrics = [self.metric_clean, self.metric_corrupt]
        mlps = [] if self.mlps is None else [self.mlps]
        fits = (
            self.heads.ndim == 3
            and self.heads.size > 0
            and all(m.shape == self.heads.shape[:1] for m in metrics)
            and all(m.shape == self.heads.shape[:2] for m in mlps)
        )
        if not fits:
            raise InputError(f"{path}: the tensors of the measured reference do not fit together")
        if not all(np.isfinite(a).all() for a in (self.heads, *metrics, *mlps)):
            raise InputError(f"{path}: the measured reference holds values that are not finite")


@cache
def shipped_measured() -> dict[str, ExactEffects]:
    """Every ``data/measured-*.safetensors`` of the package, by name."""
    with as_file(files("interp.circuits") / "data") as folder:
        loaded = [ExactEffects.load(path) for path in sorted(folder.glob("measured-*.safetensors"))]
    return {reference.name: reference for reference in loaded}


def _pack(values: np.ndarray, tolerance: float) -> tuple[np.ndarray, float]:
    largest = float(np.abs(values).max(initial=0.0))
    scale = largest / 32767
    if not np.isfinite(largest) or scale / 2 > tolerance:
        return np.ascontiguousarray(values, dtype=np.float32), 1.0
    if largest == 0:
        return np.zeros(values.shape, dtype=np.int16), 1.0
    return np.ascontiguousarray(np.round(values / scale), dtype=np.int16), scale


def _unpack(stored: np.ndarray, scale: float) -> np.ndarray:
    return stored.astype(np.float64) * scale
