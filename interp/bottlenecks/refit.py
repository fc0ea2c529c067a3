"""Codes fitted together to the vectors that are sums of them, given which codes each vector has.

The dictionary step of the method of optimal directions (Engan et al. 1999), with a ridge that holds a code where it
is as firmly as a few more vectors would: a code that few vectors have does not run after them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

RIDGE = 10.0
"""Vectors that the ridge stands for."""


def refit(
    rows: Float[Tensor, "group row d_in"],
    ids: Int[Tensor, "group row k"],
    book: Float[Tensor, "group code d_in"],
) -> Float[Tensor, "group code d_in"]:
    """The book that minimises Σ_rows |row − Σ_k code|² + RIDGE · Σ_codes |code − its present value|²."""
    return torch.stack([_of_group(*parts) for parts in zip(rows, ids.long(), book, strict=True)])


def _of_group(rows: Tensor, ids: Tensor, book: Tensor) -> Tensor:
    n_codes = len(book)
    sums = torch.zeros_like(book)
    for slot in ids.T:
        sums.index_add_(0, slot, rows)
    # how often two codes are in one vector
    pairs = (ids[:, :, None] * n_codes + ids[:, None, :]).flatten()
    together = torch.bincount(pairs, minlength=n_codes**2).reshape(n_codes, n_codes).to(book.dtype)
    ridge = RIDGE * torch.eye(n_codes, device=rows.device)
    return book + torch.linalg.solve(together + ridge, sums - together @ book)
