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


def step(
    lacking: Float[Tensor, "code d_in"], ids: Int[Tensor, "row k"], values: Float[Tensor, "row k"]
) -> Float[Tensor, "code d_in"]:
    """How far :func:`refit` moves a group's codes, from Σ_rows value · (row − Σ_k value · code) of each code.

    The ridge stands for vectors of the usual strength.
    """
    n_codes = len(lacking)
    # how often two codes are in one vector
    pairs = (ids.long()[:, :, None] * n_codes + ids[:, None, :]).flatten()
    weights = (values[:, :, None] * values[:, None, :]).flatten()
    together = torch.bincount(pairs, weights, minlength=n_codes**2).reshape(n_codes, n_codes).to(lacking)
    ridge = RIDGE * values.square().mean() * torch.eye(n_codes, device=lacking.device)
    return torch.linalg.solve(together + ridge, lacking)


def _of_group(rows: Tensor, ids: Tensor, book: Tensor) -> Tensor:
    lacking = torch.zeros_like(book)
    missing = rows - book[ids].sum(1)
    for slot in ids.T:
        lacking.index_add_(0, slot, missing)
    return book + step(lacking, ids, rows.new_ones(ids.shape))
