"""Which heads' codes go together on prompts of one side: co-occurrence of codes conditioned on the label.

Clean and corrupt prompts differ in many heads at once, so two heads' codes agree across the sides whether or not one
listens to the other. What is left within a side is information of one code about the other:

    I(u at role s ; v at role r | side)     in bits, the mean of both sides

with the bias of few prompts taken off to first order (Miller 1955; Panzeri & Treves 1996, *Network* 7:87).

When it misleads: it is a correlation. Two heads that read the same token go together and no edge joins them; a head
whose code never changes within a side goes with nothing, however much its edge carries.
"""

import numpy as np
from jaxtyping import Float, Int

from interp.scores.edge_proposals import EdgeList
from interp.scores.head_codes import HeadCodes
from interp.tasks.errors import InputError


def conditional_information(
    ids: Int[np.ndarray, "side pair slot head"],
) -> Float[np.ndarray, "head slot other other_slot"]:
    """Information of every head's code at every slot about every other's, given the side (module docstring).

    Raises:
        InputError: fewer than 2 pairs.
    """
    sides, pairs, slots, heads = ids.shape
    if pairs < 2:
        raise InputError(f"{pairs} pairs: co-occurrence of codes needs at least 2")
    total = sum(_information(side.transpose(2, 1, 0).reshape(heads * slots, pairs)) for side in ids)
    return (total / sides).reshape(heads, slots, heads, slots)


def co_occurrence(edges: EdgeList, codes: HeadCodes, n_pairs: int) -> Float[np.ndarray, " edge"]:
    """Bits of every edge, from the first pairs of the codes.

    Into a query: the most over roles, both heads' codes at the same one. Into a key or value: over pairs of roles of
    which the sender's is not named after the receiver's. So it tells queries from the rest, and not keys from values.
    """
    layers, heads = (np.array([getattr(site, name) for site in edges.sites]) for name in ("layer", "head"))
    bits = conditional_information(codes.ids[:, :n_pairs][..., layers, heads])
    slots = np.arange(bits.shape[1])
    at_one = bits[:, slots, :, slots].max(0)
    not_after = np.where((slots[:, None] <= slots)[:, None], bits, 0.0).max((1, 3))
    query = edges.into == "q"
    return np.where(query, at_one[edges.sender, edges.receiver], not_after[edges.sender, edges.receiver])


def _information(ids: Int[np.ndarray, "variable pair"]) -> Float[np.ndarray, "variable variable"]:
    variables, n = ids.shape
    entropy = np.full((variables, variables), np.log2(n))
    distinct = np.zeros((variables, variables))
    same = (ids[:, :, None] == ids[:, None, :]).astype(np.float32)
    for pair in range(n):
        # on how many prompts both variables have the codes that they have on this one
        alike = (same[:, pair] @ same[:, pair].T).astype(np.float64)
        entropy -= np.log2(alike) / n
        distinct += 1 / alike
    alone, kinds = np.diag(entropy), np.diag(distinct)
    information = alone[:, None] + alone - entropy
    bias = (distinct - kinds[:, None] - kinds + 1) / (2 * n * np.log(2))
    return np.maximum(information - bias, 0.0)
