"""The first position, when the model is frozen: codes are put where it is, and stay there.

What stands there is the same in every text as long as its codes are, and most heads rest on it most of the time. Other
positions use its codes too: where these trained them, what all heads rest on wandered, by 12 to 66 % of its length over
600 000 tokens (docs/training.md).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.bottlenecks import Codebook, CodebookConfig, Codes
from interp.bottlenecks.codes import NO_CODE, count_codes

NO_PART = 1e-3
"""Strength below which a code has no part in a vector, but fills one of the k places."""


@torch.no_grad()
def put_codes_there(book: Codebook, x: Float[Tensor, "block pos *place d_in"]) -> None:
    """Move codes so that they are all of the first position, and so that no other code can come nearer.

    Of codes taken one after another the first becomes what stands there and, if codes have no strength, the one nearest
    to nothing becomes nothing, for the slots after it. Of k most similar codes each becomes a k-th of it. Where heads
    share a book no code is moved: it would take one, or k, for each of them.
    """
    here, config = book.rows(x[:1, :1]), book.config
    if here.shape[1] > 1:
        return
    groups = torch.arange(config.groups, device=x.device)
    chosen = book.encode(x[:1, :1]).ids.long().reshape(config.groups, config.k)
    if config.selection == "cosine":
        book.codes[groups[:, None], chosen] = (here / config.k).to(book.codes.dtype)
        return
    first = chosen[:, 0]
    book.codes[groups, first] = here[:, 0].to(book.codes.dtype)
    if config.k > 1 and book.unit_values:
        length = book.comparable(book.codes.float()).norm(dim=-1)
        length[groups, first] = torch.inf
        book.codes[groups, length.argmin(-1)] = 0


def codes_there(codes: Codes, config: CodebookConfig) -> Bool[Tensor, "group code"]:
    """Which codes have a part in the first position, of the codes [block, pos, (place,) k] of some blocks."""
    ids, values = codes.ids[:, :1], codes.values[:, :1]
    return count_codes(ids.masked_fill(values.abs() < NO_PART, NO_CODE), config.n_codes, config.groups) > 0
