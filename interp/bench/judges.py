"""What scores are judged by: the reference circuits of a target, and held-out prompts to run circuits on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from interp import THRESHOLD
from interp.bench.plan import REFERENCE_SEED, BenchTarget, Say, drawn
from interp.circuits.exact_effects import Measurement
from interp.circuits.references import ExactEffects, Reference, reference_for, written_reference
from interp.errors import InputError
from interp.evaluation.recovery import recover, recover_edges
from interp.evaluation.stability import precision_at
from interp.models import Model, describe_model, weights_checksum
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import held_out_pairs
from interp.scores.result import EdgeScore

AGREEMENT = ("roc_auc", "average_precision", "precision_at_n", "spearman")
EDGE_AGREEMENT = ("edge_roc_auc", "edge_average_precision", "edge_within_roc_auc")


@dataclass(frozen=True)
class ReferenceJudge:
    """One reference circuit, its exact effects for the rank correlation, and the edges of a planted model."""

    name: str
    truth: Bool[np.ndarray, "layer head"]
    effects: Float[np.ndarray, "layer head"] | None
    edges: Reference | None = None

    def agreement(self, scores: Float[np.ndarray, "layer head"]) -> dict[str, float | None]:
        """ROC AUC, average precision, precision at the number of members, Spearman with |effect|."""
        recovery = recover(scores, self.truth, self.effects, n_random=1)
        ranking = recovery.roc_auc, recovery.average_precision
        values = *ranking, precision_at(scores, self.truth), recovery.spearman
        return dict(zip(AGREEMENT, values, strict=True))

    def edge_agreement(self, edges: tuple[EdgeScore, ...]) -> dict[str, float | None]:
        """Of a method's own edges with the written ones; empty where either has none."""
        if self.edges is None or not edges:
            return {}
        recovery = recover_edges(edges, self.edges)
        values = recovery.roc_auc, recovery.average_precision, recovery.within_roc_auc
        return dict(zip(EDGE_AGREEMENT, values, strict=True))

    @property
    def size(self) -> int:
        """Members of the reference: how many heads a method chooses where circuits are compared."""
        return int(self.truth.sum())


@dataclass(frozen=True)
class Court:
    """All judges of a target, the first of which decides, and the exact effects that the baseline is taken from."""

    judges: tuple[ReferenceJudge, ...]
    measured: ExactEffects

    def yardstick(self, n: int, seed: int) -> tuple[Float[np.ndarray, "layer head"], tuple[ReferenceJudge, ...]] | None:
        """Exact effects over ``n`` of the measured pairs, and the judges for them; ``None`` if no pair is left.

        Measured effects are replaced by what the other pairs say, so that no pair judges itself.
        """
        size = self.measured.n_pairs
        if n >= size:
            return None
        order = drawn(seed, size, size)
        taken, others = order[:n], order[n:]
        effects = self.measured.heads[others].mean(0)
        gap = (self.measured.metric_clean - self.measured.metric_corrupt)[others].mean()
        judges = tuple(
            ReferenceJudge(judge.name, np.abs(effects) >= THRESHOLD * gap, effects)
            if judge.name == self.measured.name
            else replace(judge, effects=None if judge.effects is None else effects)
            for judge in self.judges
        )
        return self.measured.heads[taken].mean(0), judges

    def yardstick_forwards(self) -> float:
        """What activation patching of every head costs a pair at most: two forwards, and one from each head's layer
        on."""
        return 2 + self.measured.n_heads * (self.measured.n_layers + 1) / 2


def convene(
    target: BenchTarget, task: Task, model: Model, folder: Path, pool: PromptPairs, *, n: int, batch_size: int, say: Say
) -> "Court | Unmeasured":
    """The references of a target: what was written into a planted model, else what was measured or published.

    Exact effects that are not shipped are measured once, into ``folder``, on ``n`` pairs that are not in the pool, or
    fewer where the task has no more: while they are not there, it is what has to be measured.
    """
    # a class of one's own may have the name of another task, and its prompts be others
    known = reference_for(task.name, describe_model(model)["spec"] or "") if target.task == task.name else []
    measured = next((r for r in known if isinstance(r, ExactEffects) and r.measures(pool)), None)
    if measured is None:
        pairs = held_out_pairs(task, model.tokenizer, n, pool, seed=REFERENCE_SEED)
        path = folder / f"reference-n{n}.safetensors"
        measured = _kept(path, model, pairs, say)
        if measured is None:
            parts = parts_of_reference(folder, n)
            begun = Measurement.begin(model, pairs, parts, mlps=False, batch_size=batch_size)
            return Unmeasured(begun, target, path)
    if measured.heads.shape[1:] != (model.cfg.n_layers, model.cfg.n_heads):
        raise InputError(
            f"reference {measured.name!r} is of a model of {measured.n_layers} layers of {measured.n_heads} heads, "
            f"{target.model} has {model.cfg.n_layers} of {model.cfg.n_heads}"
        )
    effects = measured.effects()
    if target.planted:
        written = written_reference(target.model, model)
        return Court((ReferenceJudge(written.name, written.members(), effects, written),), measured)
    published = tuple(ReferenceJudge(r.name, r.members(), None) for r in known if isinstance(r, Reference))
    return Court((ReferenceJudge(measured.name, measured.members(), effects), *published), measured)


@dataclass(frozen=True)
class Unmeasured:
    """A target without its exact effects, and where they belong."""

    measurement: Measurement
    target: BenchTarget
    path: Path

    def keep(self) -> bool:
        wanted = {"pairs": self.measurement.pairs.digest(), "weights": self.measurement.weights}
        name = f"{self.target.task}/{self.target.model}"
        effects = self.measurement.reference(name, self.target.model, **wanted)
        if effects is None:
            return False
        effects.save(self.path)
        return True


def parts_of_reference(folder: Path, n: int) -> Path:
    """Where the effects of a target lie while they are measured."""
    return folder / f"reference-n{n}.partial"


def _kept(path: Path, model: Model, pairs: PromptPairs, say: Say) -> ExactEffects | None:
    """The exact effects at ``path`` if they are of these pairs and weights."""
    if not path.is_file():
        return None
    wanted = {"pairs": pairs.digest(), "weights": weights_checksum(model)}
    try:
        made = (effects := ExactEffects.load(path)).provenance
    except InputError:
        say(f"{path}: damaged, measured again")
        return None
    same = made.get("model_details", {}).get("dtype") == describe_model(model)["dtype"]
    if wanted.items() <= made.items() and same:
        return effects
    say(f"{path}: of other prompts, weights or precision, or of an earlier version: measured again")
    return None
