"""What a topic's texts say and others do not: the tokens that steering is to bring up, with their weights.

A token belongs to the target if more of the positive texts hold it than would by chance, if as many held it as of the
negative texts, or as the model would write it in these, whichever is more: a one-sided binomial test, at a chance of
5 % that any token of the positive texts passes wrongly (Bonferroni). Texts are counted, not tokens: one that says a
word five times is one text. A token weighs by the texts that hold it times the logarithm of how many more these are
than by chance.

When it misleads: what shows in no token (a tone, an order) is not seen; a topic's words may have other meanings; of a
dozen texts, a rare word of a single one passes, whether it is the topic's or not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import binom
from torch import Tensor

from interp.errors import InputError
from interp.steering.texts import TokenizedTexts

FAMILY_ERROR = 0.05


@dataclass(frozen=True)
class TargetTokens:
    tokens: Int[Tensor, " token"]  # heaviest first
    weights: Float[Tensor, " token"]  # they add up to 1


def find_target(positive: TokenizedTexts, negative: TokenizedTexts, expected: Float[Tensor, " vocab"]) -> TargetTokens:
    """The tokens of a topic or a behaviour.

    A longer text holds more words: of a positive text that is as long as two of the negative ones are in the mean, the
    chance is that of either of two to hold a token. A shorter one is given no smaller chance: what stands once in every
    text, such as the full stop, stands in short ones too. A token of no negative text has the chance that the model
    gives it: ``expected`` is how often it would write each token at the negative texts' places, as a share of them. One
    of all of them never passes.
    """
    n_texts = len(positive.tokens)
    texts_with = _texts_with(positive, len(expected))
    tokens = np.flatnonzero(texts_with)
    texts = texts_with[tokens]
    lengths, others = (kind.counted.sum(1).numpy() for kind in (positive, negative))
    in_others = (_texts_with(negative, len(expected)) / len(others))[tokens, None]
    by_others = 1 - (1 - in_others) ** np.maximum(lengths / others.mean(), 1)
    by_model = -np.expm1(-expected.numpy()[tokens, None] * lengths)
    # of texts of different lengths the mean chance: a binomial of it has the wider tail (Hoeffding 1956)
    chance = np.maximum(by_others, by_model).mean(1)
    p_values = binom.sf(texts - 1, n_texts, chance)
    # half a text more, so that a token that nobody expects does not outweigh all others
    weights = texts * np.log(texts / (n_texts * chance + 0.5))
    chosen = (p_values <= FAMILY_ERROR / len(tokens)) & (weights > 0)
    if not chosen.any():
        raise InputError(
            "no token is in more of the positive texts than in the negative ones and than the model expects there: "
            "give more texts, or rank by detection"
        )
    order = np.argsort(-weights[chosen], kind="stable")
    weights = weights[chosen][order]
    return TargetTokens(torch.from_numpy(tokens[chosen][order]), torch.from_numpy(weights / weights.sum()).float())


def _texts_with(texts: TokenizedTexts, n_vocab: int) -> Int[np.ndarray, " vocab"]:
    """In how many texts each token stands."""
    rows = zip(texts.tokens, texts.counted, strict=True)
    return torch.cat([row[counted].unique() for row, counted in rows]).bincount(minlength=n_vocab).numpy()
