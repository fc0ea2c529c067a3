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
    n_codes, k = len(book), ids.shape[1]
    together = torch.zeros(n_codes * n_codes, device=rows.device)  # how often two codes are in one vector
    sums = torch.zeros_like(book)
    for slot in range(k):
        sums.index_add_(0, ids[:, slot], rows)
        for other in range(k):
            pairs = torch.bincount(ids[:, slot] * n_codes + ids[:, other], minlength=n_codes * n_codes)
            together += pairs
    together = together.reshape(n_codes, n_codes)
    ridge = RIDGE * torch.eye(n_codes, device=rows.device)
    return book + torch.linalg.solve(together + ridge, sums - together @ book)
