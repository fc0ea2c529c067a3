"""Setting codes: which ids, at which positions, in which groups and slots.

Positions count the columns of the token batch from 0, BOS and padding included, whether the model sees the whole
sequence at once or, with a KV cache, one position at a time. There are no negative ones: while a text is being
generated its end is not known.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes, check_ids
from interp.errors import InputError

Positions = Integral | slice | Sequence[Integral] | None
"""One, some, ``slice(n, None)`` for all from n on, or None for all."""

EditFunction = Callable[[Tensor, list[int]], Tensor]
"""Takes the ids [batch, pos, (group,) slot] of the chosen positions, groups and slots, and the numbers of the
positions; returns new ids of the same shape. It must treat every position by itself: with a KV cache it is asked for
one at a time."""

Ids = Integral | Sequence[Integral] | Tensor | EditFunction


@dataclass(frozen=True)
class Edit:
    """
    Attributes:
        ids: one id; several, as numbers or a tensor, that broadcast to [batch, pos, (group,) slot] of what is chosen,
            where an entry of the axis ``pos`` belongs to the position of that place in ``positions``; or a function.
        positions: see the module's docstring.
        group: the head (or other group) to edit; None for all.
        slot: the place among the k codes to edit, −1 the weakest; None for all.
        values: strength of the set codes: a number, a tensor of the shape of the ids, or ``kept`` to leave every
            slot's own (which may be 0).
    """

    ids: Ids
    positions: Positions = None
    group: int | None = None
    slot: int | None = None
    values: float | int | Float[Tensor, "*batch"] | Literal["kept"] = 1.0

    def check(self, bottleneck: Bottleneck, *, grouped: bool, n_groups: int) -> None:
        """Raise :class:`InputError` for ids, positions, groups or slots that cannot be."""
        config = bottleneck.config
        if not callable(self.ids):
            check_ids(_as_ids(self.ids), config.n_codes)
        check_positions(self.positions)
        if isinstance(self.values, str):
            if self.values != "kept":
                raise InputError(f"values {self.values!r}: a number, a tensor, or 'kept'")
        elif not bool(torch.as_tensor(self.values).isfinite().all()):
            raise InputError(f"values {self.values}: they must be finite numbers")
        if self.group is not None and not (grouped and 0 <= self.group < n_groups):
            allowed = f"0 to {n_groups - 1}" if grouped else "None, the site has no groups"
            raise InputError(f"group {self.group}: choose {allowed}")
        if self.slot is not None and not -config.k <= self.slot < config.k:
            raise InputError(f"slot {self.slot}: there are {config.k} codes per vector")

    def apply(self, codes: Codes, offset: int, n_codes: int) -> Codes:
        """New codes; the first position of ``codes`` has number ``offset``."""
        numbers = [offset + i for i in range(codes.ids.shape[1]) if is_among(self.positions, offset + i)]
        if not numbers:
            return codes
        index: list[Tensor | slice] = [slice(None), torch.tensor(numbers) - offset]
        ids, values = codes.ids[:, index[1]], codes.values[:, index[1]]
        view = [slice(None)] * ids.ndim
        if self.group is not None:
            view[2] = slice(self.group, self.group + 1)
        if self.slot is not None:
            slot = self.slot % ids.shape[-1]
            view[-1] = slice(slot, slot + 1)
        where = tuple(view)
        ids, values = ids.clone(), values.clone()
        ids[where] = self._new_ids(ids[where], numbers, n_codes)
        if not isinstance(self.values, str):
            new = torch.as_tensor(self.values, dtype=values.dtype, device=values.device)
            values[where] = self._fitted(new, values[where], numbers, "values")
        whole = Codes(codes.ids.clone(), codes.values.clone())
        whole.ids[:, index[1]], whole.values[:, index[1]] = ids, values
        return whole

    def _new_ids(self, chosen: Tensor, numbers: list[int], n_codes: int) -> Tensor:
        if not callable(self.ids):
            return self._fitted(_as_ids(self.ids).to(chosen), chosen, numbers, "ids")
        new = self.ids(chosen.clone(), numbers)
        if not (isinstance(new, Tensor) and new.shape == chosen.shape):
            shape = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise InputError(f"the function gave {shape} for ids of shape {list(chosen.shape)}")
        check_ids(_as_ids(new), n_codes)
        return new.to(chosen)

    def _fitted(self, new: Tensor, like: Tensor, numbers: list[int], what: str) -> Tensor:
        """Of the shape of what is chosen; with a KV cache only some of the positions are there at a time."""
        axis, given = new.ndim - like.ndim + 1, list(new.shape)
        if axis >= 0 and new.shape[axis] > 1:
            places = [_place_among(self.positions, number) for number in numbers]
            if max(places) >= new.shape[axis]:
                raise InputError(
                    f"{what} of shape {given} do not fit: they have {new.shape[axis]} positions, and "
                    f"position {numbers[places.index(max(places))]} is chosen, too"
                )
            new = new.index_select(axis, torch.tensor(places, device=new.device))
        try:
            return new.expand(like.shape)
        except RuntimeError:
            raise InputError(
                f"{what} of shape {given} do not fit the chosen {list(like.shape)} (batch, pos, …, slot)"
            ) from None


def is_among(positions: Positions, number: int) -> bool:
    """Whether the position of this number is one of these."""
    if positions is None:
        return True
    if isinstance(positions, Integral):
        return number == int(positions)
    if isinstance(positions, slice):
        start, step = positions.start or 0, positions.step or 1
        before_end = positions.stop is None or number < positions.stop
        return number >= start and before_end and (number - start) % step == 0
    return number in positions


def _place_among(positions: Positions, number: int) -> int:
    """Which of these positions one of them is, counted from 0."""
    if isinstance(positions, Integral):
        return 0
    if positions is None or isinstance(positions, slice):
        start, step = (0, 1) if positions is None else (positions.start or 0, positions.step or 1)
        return (number - start) // step
    return list(positions).index(number)


def needs_strength(bottleneck: Bottleneck, ids: Ids) -> bool:
    """Whether setting these ids has no meaning without a strength."""
    return not bottleneck.unit_values and (callable(ids) or not bool((_as_ids(ids) == NO_CODE).all()))


def _as_ids(ids: Any) -> Int[Tensor, "*batch"]:
    try:
        found = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"code ids {ids!r}: give a number, numbers, a tensor, or a function") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"code ids of type {found.dtype}: they must be integers")
    return found


def check_positions(positions: Any) -> None:
    """Raise :class:`InputError` for positions that cannot be."""
    if positions is None:
        return
    try:
        if isinstance(positions, slice):
            given = (positions.start, positions.stop, positions.step)
            *numbers, step = [n if n is None else operator.index(n) for n in given]
        else:
            step = None
            numbers = (
                [positions] if isinstance(positions, Integral) else [operator.index(n) for n in positions]
            )
    except TypeError:
        raise InputError(f"positions {positions!r}: numbers, slice(n, None), or None") from None
    if step is not None and step < 1:
        raise InputError(f"positions with step {step}: it must be 1 or more")
    for number in numbers:
        if number is not None and number < 0:
            raise InputError(f"position {number}: count from 0, the end is not known while text is generated")
