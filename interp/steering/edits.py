"""What can be done to codes while a model runs, and how it is written.

====================================  ==================================================================
edit                                  at the positions chosen
====================================  ==================================================================
``SetCode("a12.h3", code=417)``       the head's strongest code becomes 417
``AddCode("m5", code=31, scale=2)``   twice the vector of code 31 is added, whatever the codes are
``ForbidCode("a12.h3", code=417)``    417 is never chosen there: the next best code is
====================================  ==================================================================

In a line of text codes are ``a12.h3=417,m5=31``; those that are added can have a weight, ``a12.h3=417*0.5``.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, SupportsIndex

from interp.errors import InputError


@dataclass(frozen=True)
class SetCode:
    """
    Attributes:
        site: a head (``a12.h3``), or a site with one codebook (``m5``, ``r4``).
        slots: how many of the k codes of a vector become this one, strongest first. Where several codes are set at
            one site they take slots one after the other, in the order given.
        strength: factor of the code; needed, and only allowed, where codes have strengths.
        rows: of the batch; None for all.
    """

    site: str
    code: int
    slots: int = 1
    strength: float | int | None = None
    rows: Iterable[SupportsIndex] | None = None


@dataclass(frozen=True)
class AddCode:
    """
    Attributes:
        site, rows: as of :class:`SetCode`.
        scale: factor of the code's vector; negative takes it away.
        from_mean: add how the code differs from the mean of its codebook, by how often each code was counted when it
            was fitted, rather than the whole code: what all codes of a site have in common is there anyway.
    """

    site: str
    code: int
    scale: float | int = 1.0
    rows: Iterable[SupportsIndex] | None = None
    from_mean: bool = False


@dataclass(frozen=True)
class ForbidCode:
    """
    Attributes:
        site, rows: as of :class:`SetCode`.
    """

    site: str
    code: int
    rows: Iterable[SupportsIndex] | None = None


CodeEdit = SetCode | AddCode | ForbidCode

_CODE = re.compile(r"([^=*]+)=(\d{1,9})(?:\*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?", re.ASCII)
_FORM = "SITE=ID, such as a12.h3=417, or SITE=ID*WEIGHT if it is added; several with commas"


class WeightedCode(NamedTuple):
    """
    Attributes:
        weight: of codes that are added together, how much of this one.
    """

    site: str
    code: int
    weight: float = 1.0


def code_edits(
    codes: Sequence[WeightedCode],
    *,
    add: float | int | None = None,
    forbid: bool = False,
    slots: int = 1,
    rows: Iterable[SupportsIndex] | None = None,
) -> list[CodeEdit]:
    """The same for each of several codes: set in so many slots, added so many times their weight from the mean, or
    forbidden.

    Raises:
        InputError: codes that are not added have a weight.
    """
    rows = None if rows is None else tuple(rows)
    if add is not None:
        return [AddCode(site, code, add * weight, rows, from_mean=True) for site, code, weight in codes]
    for code in codes:
        if code.weight != 1:
            raise InputError(f"code {written([code])!r}: only codes that are added have a weight (*NUMBER)")
    if forbid:
        return [ForbidCode(site, code, rows) for site, code, _ in codes]
    return [SetCode(site, code, slots, rows=rows) for site, code, _ in codes]


def parse_codes(text: str) -> list[WeightedCode]:
    """Read ``a12.h3=417,m5=31*0.5``: sites, code ids, and a weight where it is not 1.

    Raises:
        InputError: anything else.
    """
    found = []
    for part in text.replace(",", " ").split():
        matched = _CODE.fullmatch(part)
        if matched is None or not math.isfinite(weight := float(matched[3] or 1)):
            raise InputError(f"code {part!r}: write {_FORM}")
        found.append(WeightedCode(matched[1], int(matched[2]), weight))
    if not found:
        raise InputError(f"no codes: write {_FORM}")
    return found


def written(codes: Sequence[WeightedCode]) -> str:
    """Codes as :func:`parse_codes` reads them."""
    return ",".join(f"{site}={code}" + ("" if weight == 1 else f"*{weight}") for site, code, weight in codes)
