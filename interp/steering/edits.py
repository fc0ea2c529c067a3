"""What can be done to codes while a model runs, and how it is written.

====================================  ==================================================================
edit                                  at the positions chosen
====================================  ==================================================================
``SetCode("a12.h3", code=417)``       the head's strongest code becomes 417
``AddCode("m5", code=31, scale=2)``   twice the vector of code 31 is added, whatever the codes are
``ForbidCode("a12.h3", code=417)``    417 is never chosen there: the next best code is
====================================  ==================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.tasks.errors import InputError


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
    rows: Sequence[int] | None = None


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
    rows: Sequence[int] | None = None
    from_mean: bool = False


@dataclass(frozen=True)
class ForbidCode:
    """
    Attributes:
        site, rows: as of :class:`SetCode`.
    """

    site: str
    code: int
    rows: Sequence[int] | None = None


CodeEdit = SetCode | AddCode | ForbidCode


def code_edits(
    codes: Sequence[tuple[str, int]],
    *,
    add: float | int | None = None,
    forbid: bool = False,
    slots: int = 1,
    rows: Sequence[int] | None = None,
) -> list[CodeEdit]:
    """The same for each of several codes: set in so many slots, added so many times from the mean, or forbidden."""
    rows = None if rows is None else tuple(rows)
    if forbid:
        return [ForbidCode(site, code, rows) for site, code in codes]
    if add is not None:
        return [AddCode(site, code, add, rows, from_mean=True) for site, code in codes]
    return [SetCode(site, code, slots, rows=rows) for site, code in codes]


def parse_codes(text: str) -> list[tuple[str, int]]:
    """Read ``a12.h3=417,m5=31``: sites and code ids.

    Raises:
        InputError: anything else.
    """
    found = []
    for part in text.replace(",", " ").split():
        site, equals, code = part.partition("=")
        if not (site and equals and code.isdecimal()):
            raise InputError(f"code {part!r}: write SITE=ID, such as a12.h3=417; several with commas")
        found.append((site, int(code)))
    if not found:
        raise InputError("no codes: write SITE=ID, such as a12.h3=417; several with commas")
    return found
