"""Does the model do the task? Looked at before effects are measured, with a hundredth of the forward passes."""

import numpy as np
from jaxtyping import Float

from interp.activations.stream import MetricConsumer, feed
from interp.models import Model, describe_model
from interp.progress import Stage, silent
from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs


def check_gap(model: Model, pairs: PromptPairs, *, batch_size: int, stage: Stage = silent) -> None:
    """Raise :class:`InputError` unless clean prompts score higher than corrupt ones, in the mean of all pairs."""
    scorer = MetricConsumer(len(pairs))
    with stage("does the model do the task?", len(pairs)) as advance:
        feed(model, pairs, [scorer], batch_size=batch_size, progress=advance)
    check_known_gap(model, pairs, *scorer.metric_)


def check_known_gap(
    model: Model,
    pairs: PromptPairs,
    metric_clean: Float[np.ndarray, " pair"],
    metric_corrupt: Float[np.ndarray, " pair"],
) -> None:
    """:func:`check_gap` where the pairs have been run already."""
    clean, corrupt = metric_clean.mean(), metric_corrupt.mean()
    if not clean > corrupt:
        raise InputError(
            f"{describe_model(model)['spec']} scores {clean:.3g} on clean prompts of {pairs.task} and {corrupt:.3g} on "
            "corrupt ones: it does not do this task, so there is no gap of which effects could be a share"
        )
