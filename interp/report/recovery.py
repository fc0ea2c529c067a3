"""How the scores of a run stand against the references there are, with curves where the members are known."""

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from interp.errors import InputError
from interp.evaluation.recovery import roc_curve_points
from interp.report import wording
from interp.report.figures import roc_panel
from interp.runs.run import Judged, Run
from interp.scores.baselines import layer_prior


def recovery_panels(run: Run) -> list[dict]:
    """One panel a reference: its numbers as the run holds them, and the ROC curve."""
    return [_panel(name, found, run) for name, found in run.recovery.items()]


def score_matrix(run: Run) -> Float[np.ndarray, "layer head"]:
    """The method's score of every head."""
    return np.array([head.score for head in run.heads]).reshape(run.shape)


def _panel(name: str, found: Judged, run: Run) -> dict:
    nulls = found.nulls
    interval = found.interval
    random = wording.DASH if nulls.random_mean is None else f"{nulls.random_mean:.3f} ± {nulls.random_sd:.3f}"
    return {
        "name": name,
        "auc": wording.number(found.roc_auc, 3),
        "interval": f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "no scores per pair",
        "precision": wording.number(found.average_precision, 3),
        "spearman": wording.number(found.spearman, 3),
        "positives": f"{found.n_positive} of {found.n_heads}",
        "random": random,
        "layer_index": wording.number(nulls.layer_index, 3),
        "layer_mean": wording.number(nulls.layer_mean, 3),
        "shared": wording.shared_pairs(found, run.n_pairs),
        "curve": _curve(name, run),
    }


def _curve(name: str, run: Run) -> Markup | None:
    """``None`` where the reference is not at hand, or its curve is undefined."""
    try:
        truth = run.reference(name).members()
    except InputError:
        return None
    scores = score_matrix(run)
    if truth.shape != scores.shape or not truth.any() or truth.all():
        return None
    return roc_panel(
        roc_curve_points(scores, truth),
        roc_curve_points(layer_prior(*truth.shape), truth),
        int(truth.sum()),
        int((~truth).sum()),
        f"ROC curve against {name}",
    )
