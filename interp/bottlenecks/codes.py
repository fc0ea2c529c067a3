"""What a bottleneck makes of an activation: a few integer codes and how strongly each enters.

Everything here costs memory in proportion to the ids, never to the size of the dictionary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.tasks.errors import InputError

NO_CODE = -1
"""An id that stands for nothing: the slot is left out of the sum."""


@dataclass(frozen=True)
class Codes:
    """The k codes of every vector, strongest first; ``ids`` index the bottleneck's dictionary.

    Attributes:
        values: the factor with which each code enters the decoded vector; 1 where a code is just on.
    """

    ids: Int[Tensor, "*batch k"]
    values: Float[Tensor, "*batch k"]


def id_dtype(n_codes: int) -> torch.dtype:
    """The narrowest integer that holds every id and :data:`NO_CODE`."""
    return torch.int16 if n_codes <= 2**15 else torch.int32


def sum_of_codes(book: Float[Tensor, "group code d_in"], codes: Codes) -> Float[Tensor, "*batch d_in"]:
    """Σ_slots value · code, in the book's dtype; the gradient reaches the chosen codes only.

    With more than one group the codes carry the group axis before the slots, [..., group, k].

    Raises:
        InputError: an id that is not in the book, or codes without the group axis.
    """
    n_groups, n_codes, d_in = book.shape
    ids, shape = codes.ids, codes.ids.shape
    if n_groups > 1 and (len(shape) < 2 or shape[-2] != n_groups):
        raise InputError(f"codes of shape {list(shape)}: expected [..., {n_groups}, k]")
    flat, weights = ids.long(), codes.values.to(book.dtype)
    # asked first: while a text is written position by position every operation counts
    if check_ids(ids, n_codes) == NO_CODE:
        weights, flat = weights * (flat != NO_CODE), flat.clamp(min=0)
    if n_groups > 1:
        flat = flat + n_codes * torch.arange(n_groups, device=ids.device)[:, None]
    total = torch.nn.functional.embedding_bag(
        flat.reshape(-1, shape[-1]),
        book.reshape(-1, d_in),
        mode="sum",
        per_sample_weights=weights.reshape(-1, shape[-1]),
    )
    return total.reshape(*shape[:-1], d_in)


def check_ids(ids: Int[Tensor, "*batch"], n_codes: int) -> int:
    """The least id, or 0 if there are none.

    Raises:
        InputError: one that is neither in the dictionary nor :data:`NO_CODE`.
    """
    if not ids.numel():
        return 0
    low, high = (int(value) for value in torch.aminmax(ids))
    if low < NO_CODE or high >= n_codes:
        wrong = low if low < NO_CODE else high
        raise InputError(f"code id {wrong}: ids must be 0 to {n_codes - 1}, or {NO_CODE} for no code at all")
    return low


def count_codes(ids: Int[Tensor, "*batch k"], n_codes: int, groups: int = 1) -> Int[Tensor, "group code"]:
    """How often each code of each group occurs; :data:`NO_CODE` is not counted."""
    flat = ids.reshape(-1, groups, ids.shape[-1]).long()
    index = flat + n_codes * torch.arange(groups, device=ids.device)[:, None]
    return torch.bincount(index[flat != NO_CODE], minlength=groups * n_codes).reshape(groups, n_codes)


def distinct(ids: Int[Tensor, "*batch k"]) -> Int[Tensor, "*batch k"]:
    """The ids of each vector in rising order, every further slot with the same code set to :data:`NO_CODE`."""
    ordered = ids.sort(-1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return ordered.masked_fill(again, NO_CODE)
