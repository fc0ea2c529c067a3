"""What a topic's texts say and others do not: the tokens that steering is to bring up, with their weights.

A token belongs to the target if it stands in more of the positive texts than in the negative ones, and in more than
the model would write it in either: a one-sided Poisson test against the largest of the three rates, at a chance of 5 %
that any token of the positive texts passes wrongly (Bonferroni). It weighs by the texts that hold it times the
logarithm of how much more often it stands there. What the positive texts make likely themselves is left out: function
words that two of a dozen texts happen to share would otherwise steer as much as the topic's own words.

When it misleads: what shows in no token (a style, a structure) is not seen; a topic's words may have other meanings.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import poisson
from torch import Tensor

from interp.steering.texts import TokenizedTexts
from interp.tasks.errors import InputError

FAMILY_ERROR = 0.05


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        tokens: heaviest first.
        weights: they add up to 1.
    """

    tokens: Int[Tensor, " token"]
    weights: Float[Tensor, " token"]


def find_target(
    positive: TokenizedTexts,
    negative: TokenizedTexts,
    expected: tuple[Float[Tensor, " vocab"], Float[Tensor, " vocab"]],
) -> Target:
    """The tokens of a topic.

    Args:
        expected: how often the model would write each token at the positive texts' places, and at the negative ones'
            (:func:`~interp.steering.texts.expected_tokens`).

    Raises:
        InputError: there are none.
    """
    by_model = torch.maximum(*expected).numpy()
    texts_with = _texts_with(positive, len(by_model))
    tokens = np.flatnonzero(texts_with)
    rate = np.maximum(_texts_with(negative, len(by_model)) / int(negative.counted.sum()), by_model)
    by_chance = int(positive.counted.sum()) * rate[tokens]
    texts = texts_with[tokens]
    p_values = poisson.sf(texts - 1, by_chance)
    # half a text more, so that a token that nobody expects does not outweigh all others
    weights = texts * np.log(texts / (by_chance + 0.5))
    chosen = (p_values <= FAMILY_ERROR / len(tokens)) & (weights > 0)
    if not chosen.any():
        raise InputError(
            "no token is in more of the positive texts than in the negative ones and than the model expects: "
            "give more texts, or rank by detection"
        )
    order = np.argsort(-weights[chosen], kind="stable")
    weights = weights[chosen][order]
    return Target(
        torch.from_numpy(tokens[chosen][order]),
        torch.from_numpy(weights / weights.sum()).float(),
    )


def _texts_with(texts: TokenizedTexts, n_vocab: int) -> Int[np.ndarray, " vocab"]:
    """In how many texts each token stands."""
    found = np.zeros(n_vocab, dtype=np.int64)
    for row, counted in zip(texts.tokens, texts.counted, strict=True):
        found[row[counted].unique().numpy()] += 1
    return found
