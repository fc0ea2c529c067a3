"""Scores of heads and MLPs from the scores of all their edges."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from interp.scores.component_graph import ComponentGraph

Fold = Literal["max", "out"]
"""How a node's score comes from its edges.

``max``: the largest |edge| into or out of the node, after the mean over pairs; of the usual folds the one that ranks
heads best in the published edge scores of GPT-2's IOI. ``out``: the sum of the edges out of it, with their signs; a
node's gradient is the sum of what its readers pass back, so this is attribution of the node's output again. Not so for
heads behind a norm after attention (Gemma, GLM-4): their edges hold the norm's scale, which attribution follows.
"""

NodeScores = tuple[Float[np.ndarray, "*any layer head"], Float[np.ndarray, "*any layer"] | None]
"""Scores of heads, and of MLPs if there are any."""


def fold_edges(
    graph: ComponentGraph, matrix: Float[np.ndarray, "*any receiver sender"], fold: Fold
) -> NodeScores:
    """Node scores from a matrix of edge scores that holds zero where no edge is."""
    if fold == "out":
        return by_component(graph, matrix.sum(-2))
    size = np.abs(matrix)
    largest = size.max(-2)
    into = size.max(-1)[..., :-1].reshape(*size.shape[:-2], graph.n_layers, -1)
    heads, mlps = into[..., : 3 * graph.n_heads], into[..., 3 * graph.n_heads :]
    per_head = heads.reshape(*heads.shape[:-1], graph.n_heads, 3).max(-1)
    nodes = np.concatenate([per_head, mlps], axis=-1).reshape(*size.shape[:-2], -1)
    largest[..., 1:] = np.maximum(largest[..., 1:], nodes)
    return by_component(graph, largest)


def by_component(graph: ComponentGraph, per_sender: Float[np.ndarray, "*any sender"]) -> NodeScores:
    """Values of all senders as those of heads and of MLPs; the input is left out."""
    per_layer = per_sender[..., 1:].reshape(*per_sender.shape[:-1], graph.n_layers, -1)
    return per_layer[..., : graph.n_heads], per_layer[..., -1] if graph.mlps else None
