"""Codes named at two levels: ``a20.h0=3.17`` is code 17, which belongs to coarse code 3; ``a20.h0=3.all`` is all of it.

What reads codes reads fine ones. Of a coarse code these are: all of its codes, where they are read or forbidden; all of
them by how often they are on, where they are added, which adds its mean vector; and the commonest where one is set.
"""

import re
from typing import Literal

import numpy as np

from interp.bottlenecks.edits import Operation, WeightedCode, format_codes, parse_codes
from interp.codesearch.coarse import ALL, CoarseIndex
from interp.codesearch.index import CodeIndex
from interp.codesearch.labels import Labels, labels_of
from interp.errors import InputError

_LEVELS = re.compile(r"([^=*,\s]+)=(\d{1,9})\.(\d{1,9}|all)(?=[*,\s]|$)", re.ASCII)
LEAST_SHARE = 0.001  # codes that are on less often, of a coarse code's tokens, are left out where it is added


def has_levels(text: str) -> bool:
    """Whether a text names a code by its coarse one."""
    return _LEVELS.search(text) is not None


def coarse_level(index: CodeIndex) -> CoarseIndex:
    """The index at its coarse level; :class:`InputError` where no labels have one."""
    labels = labels_of(index)
    if labels is None or not labels.groups:
        raise InputError(f"{index.folder} has no coarse level: run `interp index label {index.folder}`")
    return CoarseIndex(index, labels.groups)


def coarse_code(text: str) -> tuple[str, int] | None:
    """Book and number of ``a20.h0=3.all``; None of any other text."""
    named = _LEVELS.fullmatch(text)
    return (named[1], int(named[2])) if named is not None and named[3] == ALL else None


def fine_codes(text: str, labels: Labels | None, how: Operation | Literal["read"] = "read") -> str:
    """A list of codes with those named by their coarse one as :func:`~interp.bottlenecks.edits.parse_codes` reads them.
    :class:`InputError`: no labels with a coarse level, no such code, or one of another coarse code."""
    if not has_levels(text):
        return text
    if labels is None or not labels.groups:
        raise InputError(f"code {text!r}: these codebooks have no coarse level (interp index label makes one)")
    parts = []
    for part in text.replace(",", " ").split():
        named = _LEVELS.match(part)
        if named is None:
            parts.append(part)
            continue
        book, weight = named[1], part[named.end() :]
        (weighted,) = parse_codes(f"{book}=0{weight}")
        codes = [
            WeightedCode(book, code, round(share * weighted.weight, 4)) for code, share in _members(named, labels, how)
        ]
        parts.append(format_codes(codes))
    return ",".join(parts)


def _members(named: re.Match[str], labels: Labels, how: str) -> list[tuple[int, float]]:
    """Fine codes, and how much of each."""
    book, group, code = named[1], int(named[2]), named[3]
    groups = labels.groups.get(book)
    if groups is None:
        raise InputError(f"code {named[0]!r}: no labels of {book}")
    if code != ALL:
        if int(code) >= len(groups):
            raise InputError(f"code {named[0]!r}: there are 0 to {len(groups) - 1}")
        if groups[int(code)] != group:
            raise InputError(f"code {named[0]!r}: it is {book}={groups[int(code)]}.{code}")
        return [(int(code), 1.0)]
    members = np.flatnonzero(groups == group)
    if not len(members):
        raise InputError(f"code {named[0]!r}: coarse codes of {book} are 0 to {groups.max()}")
    begin, _ = labels.starts[book]
    firings = labels.columns["firings"][begin + members] + 1e-6  # none may be on
    if how == "set":
        return [(int(members[firings.argmax()]), 1.0)]
    if how != "added":
        return [(member, 1.0) for member in members.tolist()]
    often = firings >= LEAST_SHARE * firings.sum()
    shares = firings[often] / firings[often].sum()
    return list(zip(members[often].tolist(), shares.tolist(), strict=True))
