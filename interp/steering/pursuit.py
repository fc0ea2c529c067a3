"""A vector told in a few codes: non-negative orthogonal matching pursuit (Bruckstein, Elad & Zibulevsky 2008)."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

EXACT = 1e-5
"""What may be left of a vector, as a share of its length: rounding is not told in codes."""


def pursue(
    codes: Float[np.ndarray, "code d_in"],
    vector: Float[np.ndarray, " d_in"],
    n: int,
) -> list[tuple[int, float]]:
    """Codes and their weights, above 0, whose sum is as near to the vector as may be; in the order in which they are
    taken.

    One code after another is taken, the one most along what is left, and after each all weights are fitted anew.

    Args:
        n: codes, at most: fewer if no other code points along what is left, or a weight comes out as 0.
    """
    codes, vector = codes.astype(np.float64), vector.astype(np.float64)
    norms = np.linalg.norm(codes, axis=1)
    taken: list[int] = []
    weights, left = np.zeros(0), vector
    for _ in range(min(n, len(codes))):
        if np.linalg.norm(left) <= EXACT * np.linalg.norm(vector):
            break
        along = codes @ left / np.maximum(norms, 1e-12)
        along[taken] = 0
        best = int(along.argmax())
        if along[best] <= 0:
            break
        taken.append(best)
        weights, _ = nnls(codes[taken].T, vector)
        left = vector - weights @ codes[taken]
    return [(code, float(weight)) for code, weight in zip(taken, weights, strict=True) if weight > 0]
