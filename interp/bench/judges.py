"""What scores are judged by: the reference circuits of a target, and held-out prompts to run circuits on."""

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from interp import THRESHOLD
from interp.activations.stream import HUNDREDTHS
from interp.bench.plan import REFERENCE_SEED, Say, Target, drawn
from interp.circuits.references import ExactEffects, Reference, reference_for, written_reference
from interp.circuits.verify import check_gap
from interp.errors import InputError
from interp.evaluation.recovery import recover, recover_edges
from interp.evaluation.stability import precision_at
from interp.models import Model, describe_model, weights_checksum
from interp.progress import Stage
from interp.prompts.pairs import PromptPairs, Task
from interp.prompts.sampling import held_out_pairs
from interp.scores.patching import PatchingConfig, patching
from interp.scores.result import EdgeScore

AGREEMENT = ("roc_auc", "average_precision", "precision_at_n", "spearman")


@dataclass(frozen=True)
class Judge:
    """One reference circuit.

    Attributes:
        effects: mean exact effects, for the rank correlation.
        edges: the reference with its edges, where they are compared: those written into planted models.
    """

    name: str
    truth: Bool[np.ndarray, "layer head"]
    effects: Float[np.ndarray, "layer head"] | None
    edges: Reference | None = None

    def agreement(self, scores: Float[np.ndarray, "layer head"]) -> dict[str, float | None]:
        """ROC AUC, average precision, precision at the number of members, Spearman with |effect|."""
        found = recover(scores, self.truth, self.effects, n_random=1)
        return {
            "roc_auc": found.roc_auc,
            "average_precision": found.average_precision,
            "precision_at_n": precision_at(scores, self.truth),
            "spearman": found.spearman,
        }

    def edge_agreement(self, edges: tuple[EdgeScore, ...]) -> dict[str, float | None]:
        """Of a method's own edges with the written ones; empty where either has none."""
        if self.edges is None or not edges:
            return {}
        found = recover_edges(edges, self.edges)
        return {
            "edge_roc_auc": found.roc_auc,
            "edge_average_precision": found.average_precision,
            "edge_within_roc_auc": found.within_roc_auc,
        }

    @property
    def size(self) -> int:
        """Members of the reference: how many heads a method chooses where circuits are compared."""
        return int(self.truth.sum())


@dataclass(frozen=True)
class Court:
    """All judges of a target, the first of which decides, and the exact effects that the yardstick is taken from."""

    judges: tuple[Judge, ...]
    measured: ExactEffects

    def yardstick(
        self, n: int, seed: int
    ) -> tuple[Float[np.ndarray, "layer head"], tuple[Judge, ...]] | None:
        """Exact effects over ``n`` of the measured pairs, and the judges for them; ``None`` if no pair is left.

        Measured effects are replaced by what the other pairs say, so that no pair judges itself.
        """
        size = self.measured.n_pairs
        if n >= size:
            return None
        order = drawn(seed, size, size)
        own, others = order[:n], order[n:]
        effects = self.measured.heads[others].mean(0)
        gap = (self.measured.metric_clean - self.measured.metric_corrupt)[others].mean()
        judges = tuple(
            Judge(judge.name, np.abs(effects) >= THRESHOLD * gap, effects)
            if judge.name == self.measured.name
            else replace(judge, effects=None if judge.effects is None else effects)
            for judge in self.judges
        )
        return self.measured.heads[own].mean(0), judges

    def yardstick_forwards(self) -> float:
        """What activation patching of every head costs a pair: two forwards, and one from each head's layer on.

        Nothing is skipped of them; without what the prompts begin with in common it is less.
        """
        return 2 + self.measured.n_heads * (self.measured.n_layers + 1) / 2


def convene(
    target: Target,
    task: Task,
    model: Model,
    folder: Path,
    pool: PromptPairs,
    *,
    n: int,
    batch_size: int,
    stage: Stage,
    say: Say,
) -> Court:
    """The references of a target: what was written into a planted model, else what was measured or published.

    Exact effects that are not shipped are measured once, into ``folder``, on ``n`` pairs that are not in the pool, or
    fewer where the task has no more; a killed measurement resumes.
    """
    # a class of one's own may have the name of another task, and its prompts be others
    known = reference_for(task.name, describe_model(model)["spec"] or "") if target.task == task.name else []
    measured = next((r for r in known if isinstance(r, ExactEffects) and r.measures(pool)), None)
    if measured is None:
        pairs = held_out_pairs(task, model.tokenizer, n, pool, seed=REFERENCE_SEED)
        path = folder / f"reference-n{n}.safetensors"
        measured = _measured(target, model, pairs, path, batch_size=batch_size, stage=stage, say=say)
    if measured.heads.shape[1:] != (model.cfg.n_layers, model.cfg.n_heads):
        raise InputError(
            f"reference {measured.name!r} is of a model of {measured.n_layers} layers of {measured.n_heads} heads, "
            f"{target.model} has {model.cfg.n_layers} of {model.cfg.n_heads}"
        )
    effects = measured.effects()
    if target.planted:
        written = written_reference(target.model, model)
        return Court((Judge(written.name, written.members(), effects, written),), measured)
    published = tuple(Judge(r.name, r.members(), None) for r in known if isinstance(r, Reference))
    return Court((Judge(measured.name, measured.members(), effects), *published), measured)


def _measured(
    target: Target,
    model: Model,
    pairs: PromptPairs,
    path: Path,
    *,
    batch_size: int,
    stage: Stage,
    say: Say,
) -> ExactEffects:
    """The exact effects kept at ``path`` if they are of these pairs and weights, else measured and kept there."""
    wanted = {"pairs": pairs.digest(), "weights": weights_checksum(model)}
    dtype = describe_model(model)["dtype"]
    if path.is_file():
        found = _kept(path)
        if found is None:
            say(f"{path}: damaged, measured again")
        elif (
            wanted.items() <= found.provenance.items()
            and found.provenance.get("model_details", {}).get("dtype") == dtype
        ):
            return found
        else:
            say(f"{path}: of other prompts, weights or precision, or of an earlier version: measured again")
    check_gap(model, pairs, batch_size=batch_size, stage=stage)
    # named by what it is of: one that a bench of another precision left is no use, and no obstacle
    own = hashlib.sha256(f"{wanted}{describe_model(model) | {'device': None}}".encode()).hexdigest()[:8]
    partial = path.with_suffix(f".{own}.partial.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    config = PatchingConfig(batch_size=batch_size, mlps=False, checkpoint=str(partial))
    with stage(f"{target.name}: exact effects", HUNDREDTHS) as advance:
        scores = patching(model, pairs, config, progress=advance)
    name = f"{target.task}/{target.model}"
    measured = ExactEffects.from_scores(
        scores, name=name, model=target.model, provenance={"model_details": describe_model(model), **wanted}
    )
    measured.save(path)
    partial.unlink(missing_ok=True)
    return ExactEffects.load(path)  # as every later run will see it


def _kept(path: Path) -> ExactEffects | None:
    """What is there, ``None`` if it cannot be read."""
    with contextlib.suppress(InputError):
        return ExactEffects.load(path)
    return None
