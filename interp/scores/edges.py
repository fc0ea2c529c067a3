"""Edge attribution among chosen components: which output feeds which query, key, value or MLP input.

Edge attribution patching (:mod:`.eap`; Syed et al. 2023, arXiv 2310.10348), restricted to the components of a circuit.
"""

from collections.abc import Sequence

import numpy as np

from interp.activations.stream import BATCH_SIZE, Progress
from interp.models import Model, Site
from interp.scores.eap import edge_scores
from interp.scores.edge_gradients import edge_products
from interp.scores.result import EdgeScore
from interp.tasks.pairs import PromptPairs


def edge_attribution(
    model: Model,
    pairs: PromptPairs,
    sites: Sequence[Site],
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[EdgeScore, ...]:
    """Score every directed edge among ``sites`` (heads and MLPs), largest absolute score first.

    ``progress`` is told how many pairs a batch had once it is done.
    """
    if not sites:
        if progress is not None:
            progress(len(pairs))
        return ()
    names = {str(site) for site in sites}
    receiving = {(site.kind, site.layer) for site in sites}
    found = edge_scores(
        model,
        pairs,
        lambda run: (edge_products(run.at_clean(), run.written, receiving=receiving), 0.0),
        batch_size=batch_size,
        progress=progress,
    )
    rows = np.array([str(receiver) in names for receiver in found.graph.receivers])
    columns = np.array([sender in names for sender in found.graph.senders])
    return found.graph.edges(np.where(rows[:, None] & columns, found.matrix, np.nan))
