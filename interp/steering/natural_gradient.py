"""What to add, and how much of it, so that a target rises most for what it costs: the natural gradient (Amari 1998).

Things that can be added, codes or vectors, have first-order gains e (nats of the target's log p per token if one is
added once) and an information matrix K: added d times they cost ½ dᵀ K d, KL(with ‖ without) per token to second order.
Those that move the model alike are seen in K: after one of them the next costs more.

When it misleads: far from the model as it is neither order holds.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

STEP = 0.5
"""How many times each code is added for which codes are chosen."""
NATS = 0.2
"""What all that is chosen would cost together."""
RIDGE = 0.3
"""Added to each one's own information, as a share of it: fewer samples are drawn than there are candidates."""


def information(moves: Float[np.ndarray, "sample item"]) -> Float[np.ndarray, "item item"]:
    """K.

    Args:
        moves: ⟨score, vector⟩ of each sample (:class:`~interp.steering.pulls.Pull`) and each thing to add.
    """
    moves = moves.astype(np.float64)
    matrix = moves.T @ moves
    return matrix + RIDGE * np.diag(np.diag(matrix))


def choose(
    gains: Float[np.ndarray, " item"], matrix: Float[np.ndarray, "item item"], *, step: float, nats: float
) -> list[int]:
    """What to add ``step`` times, in the order in which it is worth it: greedily, by what each adds to
    ⟨e, d⟩ − price · ½ dᵀ K d after those before it, at the lowest price at which all cost no more than ``nats``.

    At least one. Gains are above 0.
    """

    def cost(log_price: float) -> float:
        chosen = _greedy(gains, matrix, step, np.exp(log_price))
        return float(step**2 / 2 * matrix[np.ix_(chosen, chosen)].sum())

    # at the highest price nothing is worth its cost
    high = float(np.log((2 * gains / (step * np.diag(matrix))).max()))
    low = high - 25
    if cost(low) > nats:
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(middle) > nats else (low, middle)
    else:
        high = low
    return _greedy(gains, matrix, step, np.exp(high)) or [int((gains**2 / np.diag(matrix)).argmax())]


def doses(
    gains: Float[np.ndarray, " item"], matrix: Float[np.ndarray, "item item"], *, nats: float
) -> Float[np.ndarray, " item"]:
    """How many times to add each, 0 or more, so that the target rises most for ``nats``."""
    # max ⟨e, d⟩ − ½ dᵀ K d over d ≥ 0, with K = L Lᵀ: min ‖Lᵀ d − L⁻¹ e‖
    lower = np.linalg.cholesky(matrix)
    found, _ = nnls(lower.T, np.linalg.solve(lower, gains), maxiter=30 * len(gains))
    return found * np.sqrt(2 * nats / (found @ matrix @ found))


def _greedy(
    gains: Float[np.ndarray, " item"], matrix: Float[np.ndarray, "item item"], step: float, price: float
) -> list[int]:
    left = step * gains - price * step**2 / 2 * np.diag(matrix)
    order: list[int] = []
    while (best := int(left.argmax())) not in order and left[best] > 0:
        order.append(best)
        left = left - price * step**2 * matrix[best]
        left[order] = -np.inf
    return order
