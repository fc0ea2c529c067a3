"""Vectors at several places told in a few codes of theirs: non-negative orthogonal matching pursuit (Bruckstein, Elad &
Zibulevsky 2008), of all places together.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

EXACT = 1e-5
"""What may be left of a vector, as a share of its length: rounding is not told in codes."""


def pursue(
    codes: Sequence[Float[np.ndarray, "_ _"]],
    vectors: Sequence[Float[np.ndarray, " _"]],
    n: int,
) -> list[tuple[int, int, float]]:
    """Places, codes and their weights, above 0, whose sums are as near to the vectors as may be.

    One code after another is taken, wherever it tells most: the one by which, with its best weight, the sum of squares
    of all that is left falls most. After each the weights of its place are fitted anew; those of others would not
    change. So a place whose vector is long, or well told by its codes, has many, and another none.

    Args:
        codes, vectors: of every place, [code, d_in], of one code or more, and [d_in]; places may differ in both.
        n: codes of all places together, at most: fewer if no other code points along what is left, or a weight comes
            out as 0.
    """
    places = [_Place(some, vector) for some, vector in zip(codes, vectors, strict=True)]
    gains = np.array([place.gain for place in places])
    for _ in range(min(n, sum(len(place.codes) for place in places))):
        best = int(gains.argmax())
        if gains[best] <= 0:
            break
        places[best].take()
        gains[best] = places[best].gain
    return [
        (number, code, float(weight))
        for number, place in enumerate(places)
        for code, weight in zip(place.taken, place.weights, strict=True)
        if weight > 0
    ]


class _Place:
    """The pursuit of one vector.

    Attributes:
        taken, weights: codes so far.
        next: the code to take next.
        gain: by how much the length of what is left, along it, would fall; 0 if no code points along what is left.
    """

    def __init__(self, codes: Float[np.ndarray, "code d_in"], vector: Float[np.ndarray, " d_in"]) -> None:
        self.codes, self.vector = codes.astype(np.float64), vector.astype(np.float64)
        self._lengths = np.maximum(np.linalg.norm(self.codes, axis=1), 1e-12)
        self.taken: list[int] = []
        self.weights = np.zeros(0)
        self._look(self.vector)

    def take(self) -> None:
        self.taken.append(self.next)
        self.weights, _ = nnls(self.codes[self.taken].T, self.vector)
        self._look(self.vector - self.weights @ self.codes[self.taken])

    def _look(self, left: Float[np.ndarray, " d_in"]) -> None:
        along = self.codes @ left / self._lengths
        along[self.taken] = 0
        self.next = int(along.argmax())
        told = np.linalg.norm(left) <= EXACT * np.linalg.norm(self.vector)
        self.gain = 0.0 if told else max(0.0, float(along[self.next]))
