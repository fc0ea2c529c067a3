"""Codes fitted together to the vectors that are sums of them, given which codes each vector has.

The dictionary step of the method of optimal directions (Engan et al. 1999), with a ridge that holds a code where it
is as firmly as a few more vectors would: a code that few vectors have does not run after them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PART = 4096
"""Rows whose pairs of codes are counted at a time."""
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
    return book + least_squares_move(rows - book[ids].sum(1), ids, len(book))


def least_squares_move(
    missing: Float[Tensor, "row d_in"],
    ids: Int[Tensor, "row k"],
    n_codes: int,
    values: Float[Tensor, "row k"] | None = None,
    fixed: Bool[Tensor, " code"] | None = None,
) -> Float[Tensor, "code d_in"]:
    """How far :func:`refit` moves one group's codes.

    Args:
        missing: of each row what its codes leave, row − Σ_k value · code.
        values: with which codes enter the sum; 1 if not given. The ridge is RIDGE times their mean square.
        fixed: codes that stay where they are, and that the others make up for.
    """
    ids = ids.long()
    lacking = missing.new_zeros(n_codes, missing.shape[1])  # of each code Σ_rows value · missing
    for slot in range(ids.shape[1]):
        part = missing if values is None else missing * values[:, slot, None]
        lacking.index_add_(0, ids[:, slot], part)
    if fixed is not None:
        lacking[fixed] = 0
    ridge = RIDGE if values is None else float(RIDGE * values.square().mean().clamp(min=1e-12))
    if ids.shape[1] == 1:
        weight = torch.bincount(
            ids[:, 0], None if values is None else values[:, 0].square(), minlength=n_codes
        )
        return lacking / (weight.to(lacking) + ridge)[:, None]
    # how often two codes are in one vector
    together = lacking.new_zeros(n_codes**2)
    for i, rows in enumerate(ids.split(PART)):
        pairs = (rows[:, :, None] * n_codes + rows[:, None, :]).flatten()
        own = None if values is None else values[i * PART : (i + 1) * PART]
        products = None if own is None else (own[:, :, None] * own[:, None, :]).flatten()
        together += torch.bincount(pairs, products, minlength=n_codes**2).to(together)
    together = together.reshape(n_codes, n_codes)
    if fixed is not None:
        together[fixed], together[:, fixed] = 0, 0
    together.diagonal().add_(ridge)
    return torch.linalg.solve(together, lacking)
