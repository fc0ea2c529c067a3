"""Edits: what can be done to codes while a model runs, where, and how codes are written.

====================================  ==================================================================
edit                                  at the positions chosen
====================================  ==================================================================
``SetCode("a12.h3", code=417)``       the head's strongest code becomes 417
``AddCode("m5", code=31, scale=2)``   twice the vector of code 31 is added, whatever the codes are
``ForbidCode("a12.h3", code=417)``    417 is never chosen there: the next best code is
====================================  ==================================================================

Positions are ``generated`` (from the last token of the prompt on, which is where the first new token is made; in a
forward by itself the last position), ``generated:N`` (from the N-th new token on), ``prompt``, ``all``, or columns of
the token batch from 0, padding included: a number, several, or ``slice(n, None)`` for all from n on. Columns are the
same with and without a KV cache. None is negative: while a text is being generated its end is not known.

In a line of text codes are ``a12.h3=417,m5=31``; those that are added can have a weight, ``a12.h3=417*0.5``.
What else has to hold at a position is a gate's to say (:mod:`interp.bottlenecks.gates`).
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, SupportsIndex, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.gates import TOKEN, Gate
from interp.errors import InputError, real_number, whole_number
from interp.models.sites import canonical_site

Positions = str | SupportsIndex | slice | Sequence[SupportsIndex]  # a name or columns, see the module's docstring


@dataclass(frozen=True)
class SetCode:
    """A code in place of those that are there.

    >>> edit = SetCode("a21.h6", 17)

    Attributes:
        site: a head (``a12.h3``), or a site with one codebook (``m5``, ``r4``).
        slots: how many of the k codes of a vector become this one, strongest first. Where several codes are set at
            one site together they take slots one after the other, in the order given.
        strength: factor of the code; needed, and only allowed, where codes have strengths.
        rows: of the batch; None for all.
    """

    site: str
    code: int
    slots: int = 1
    strength: float | int | None = None
    rows: Collection[SupportsIndex] | None = None


@dataclass(frozen=True)
class AddCode:
    """A code's vector on top of what is there.

    >>> edit = AddCode("a21.h6", 17, scale=40)

    Attributes:
        site, rows: as of :class:`SetCode`.
        scale: factor of the code's vector; negative takes it away.
        from_mean: add how the code differs from the mean of its codebook, by how often each code was counted when it
            was fitted, rather than the whole code: what all codes of a site have in common is there anyway.
    """

    site: str
    code: int
    scale: float | int = 1.0
    rows: Collection[SupportsIndex] | None = None
    from_mean: bool = False


@dataclass(frozen=True)
class ForbidCode:
    """The next best code in place of this one; ``site`` and ``rows`` as of :class:`SetCode`.

    >>> edit = ForbidCode("a21.h6", 17)
    """

    site: str
    code: int
    rows: Collection[SupportsIndex] | None = None


CodeEdit = SetCode | AddCode | ForbidCode


class WeightedCode(NamedTuple):
    """``weight`` is how much of this one, of codes that are added together."""

    site: str
    code: int
    weight: float = 1.0


_CODE = re.compile(r"([^=*]+)=(\d{1,9})(?:\*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?", re.ASCII)
_FORM = "SITE=ID, such as a12.h3=417, or SITE=ID*WEIGHT if it is added; several with commas"


def parse_codes(text: str) -> list[WeightedCode]:
    """Read ``a12.h3=417,m5=31*0.5``: sites, code ids, and a weight where it is not 1."""
    codes = []
    for part in text.replace(",", " ").split():
        matched = _CODE.fullmatch(part)
        if matched is None or not math.isfinite(weight := float(matched[3] or 1)):
            raise InputError(f"code {part!r}: write {_FORM}")
        codes.append(WeightedCode(canonical_site(matched[1]), int(matched[2]), weight))
    if not codes:
        raise InputError(f"no codes: write {_FORM}")
    return codes


def parse_code(text: str) -> tuple[str, int]:
    """Read one code, ``a12.h3=417``."""
    codes = parse_codes(text)
    if len(codes) > 1 or "*" in text:
        raise InputError(f"code {text!r}: write one, such as a12.h3=417")
    return codes[0][:2]


def parse_gate(text: str) -> Gate:
    """Read ``a12.h3=417``, several codes with commas, or ``token:REGEX``."""
    if str(text).startswith(TOKEN):
        return Gate(text)
    try:
        codes = parse_codes(str(text))
    except InputError:
        codes = []
    if not codes or any(code.weight != 1 for code in codes):
        raise InputError(f"gate {text!r}: write codes, such as a12.h3=417, {TOKEN}REGEX or {FIRING}")
    return Gate(text, tuple(code[:2] for code in codes))


def code_name(site: str, code: int, weight: float = 1.0) -> str:
    """A code as :func:`parse_codes` reads it."""
    return f"{site}={code}" + ("" if weight == 1 else f"*{weight}")


def format_codes(codes: Iterable[WeightedCode]) -> str:
    """As :func:`parse_codes` reads them."""
    return ",".join(code_name(*code) for code in codes)


Operation = Literal["set", "added", "forbidden"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)  # what is done to codes


def code_edits(
    codes: Sequence[WeightedCode],
    operation: Operation,
    *,
    scale: float | int = 1.0,
    slots: int = 1,
    rows: Collection[SupportsIndex] | None = None,
) -> list[CodeEdit]:
    """The same for each of several codes: set in so many slots, added ``scale`` times their weight from the mean, or
    forbidden."""
    if operation == "added":
        return [AddCode(site, code, scale * weight, rows, from_mean=True) for site, code, weight in codes]
    for code in codes:
        if code.weight != 1:
            raise InputError(f"code {code_name(*code)!r}: only codes that are added have a weight (*NUMBER)")
    if operation == "forbidden":
        return [ForbidCode(site, code, rows) for site, code, _ in codes]
    return [SetCode(site, code, slots, rows=rows) for site, code, _ in codes]


FIRING = "firing"
_FROM = re.compile(r"generated:([1-9]\d{0,5})")
_Columns = slice | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class EditScope:
    """Positions of edits that were made together, the fraction of them that is drawn, and the gate that all of them
    stand behind. In its place ``firing`` multiplies what is added by its cosine with what is there, if above 0.

    A draw depends on seed, column and row alone. Columns count padding: beside a longer prompt the same prompt is
    edited at other tokens.
    """

    positions: Positions = "generated"
    fraction: float | int = 1.0
    seed: SupportsIndex = 0
    when: str | None = None

    def __post_init__(self) -> None:
        self.columns(1)
        _ = self.gate
        if not 0 <= real_number("fraction", self.fraction) <= 1:
            raise InputError(f"fraction {self.fraction}: it must be 0 to 1")
        whole_number("seed", self.seed, 0, 2**64 - 1)

    @cached_property
    def gate(self) -> Gate | None:
        return None if self.when is None or self.follows else parse_gate(self.when)

    @property
    def follows(self) -> bool:
        """Whether what is added follows how much of it is there already."""
        return self.when == FIRING

    def columns(self, n_prompt: int) -> _Columns:
        """The columns where a prompt of so many tokens is continued; the N-th new one is made at the one before it."""
        given = self.positions
        if not isinstance(given, str):
            return _checked(given)
        named = {"generated": slice(n_prompt - 1, None), "prompt": slice(0, n_prompt), "all": slice(None)}
        if given in named:
            return named[given]
        later = _FROM.fullmatch(given)
        if later is None:
            raise InputError(f"positions {given!r}: choose {', '.join(named)}, generated:N, or give columns")
        return slice(n_prompt + int(later[1]) - 2, None)

    def mask(self, n_rows: int, columns: Sequence[int], n_prompt: int) -> Bool[Tensor, "batch pos"]:
        """Which positions of these columns are edited, where the gate is open."""
        chosen = self.columns(n_prompt)
        edited = range(max(columns, default=0) + 1)[chosen] if isinstance(chosen, slice) else chosen
        among = torch.tensor([column in edited for column in columns])
        if self.fraction == 1:
            return among.expand(n_rows, -1)
        keys = (np.array([self.seed, column], dtype=np.uint64) for column in columns)
        drawn = [np.random.Generator(np.random.Philox(key=key)).random(n_rows) for key in keys]
        return torch.from_numpy(np.stack(drawn, 1) < self.fraction) & among


def _checked(given: SupportsIndex | slice | Sequence[SupportsIndex]) -> _Columns:
    if isinstance(given, slice):
        columns: _Columns = given
        numbers = tuple(n for n in (given.start, given.stop) if n is not None)
        if given.step is not None and given.step < 1:
            raise InputError(f"positions with step {given.step}: it must be 1 or more")
    else:
        several = given if isinstance(given, Iterable) else (given,)
        columns = numbers = tuple(whole_number("position", n) for n in several)
    for number in numbers:
        if number < 0:
            raise InputError(f"position {number}: count from 0, the end is not known while text is generated")
    return columns


Rows = tuple[int, ...] | None
_Key = tuple[EditScope, Rows]
At = Callable[[EditScope, Rows], Bool[Tensor, "batch pos"] | None]
"""Where edits of these rows act in the forward under way; None for nowhere."""
_KEEP = -2  # an id that leaves a slot as it is


class SiteEdits:
    """The edits of one site as tensors: however many heads they name, a forward does a handful of operations.

    Forbidden codes act first (:meth:`allowed`), then set ones (:meth:`apply`), then added ones (:meth:`added`).
    ``groups`` is the length of the codes' group axis, if they have one.
    """

    def __init__(self, bottleneck: Bottleneck, groups: int | None) -> None:
        self.bottleneck, self.groups = bottleneck, groups
        self._lead = () if groups is None else (groups,)
        self._set: dict[_Key, tuple[Tensor, Tensor]] = {}
        self._added: dict[_Key, Tensor] = {}
        self._forbidden: dict[_Key, Tensor] = {}

    @property
    def reads(self) -> bool:
        """Whether the codes have to be known."""
        return bool(self._set or self._forbidden)

    def add(self, edit: CodeEdit, group: int | None, scope: EditScope) -> None:
        """Take in an edit of one group, or of a site without groups."""
        n_codes = self.bottleneck.config.n_codes
        if not 0 <= whole_number("code", edit.code) < n_codes:
            raise InputError(f"code {edit.code} at {edit.site}: the codebook there has 0 to {n_codes - 1}")
        rows = None if edit.rows is None else tuple(sorted({whole_number("row", row) for row in edit.rows}))
        if rows is not None and (not rows or rows[0] < 0):
            raise InputError(f"rows {edit.rows!r}: name rows of the batch, from 0")
        if scope.follows and not isinstance(edit, AddCode):
            raise InputError(f"gate {FIRING!r} at {edit.site}: it is for codes that are added, AddCode")
        if isinstance(edit, SetCode):
            self._add_set(edit, group, (scope, rows))
        elif isinstance(edit, AddCode):
            self._add_added(edit, group, (scope, rows))
        else:
            self._add_forbidden(edit, group, (scope, rows))

    def allowed(self, codes: Codes, x: Tensor, at: At) -> Codes:
        """The codes of ``x`` without forbidden ones; the same object if nothing is forbidden."""
        masks = ((at(*key), without) for key, without in self._forbidden.items())
        acting = [(mask, without) for mask, without in masks if mask is not None]
        for mask, without in _together(acting) if len(acting) > 1 else acting:
            # groups in which nothing is forbidden choose as before
            assert isinstance(self.bottleneck, Dictionary)
            other = self.bottleneck.encode_without(x, without)
            codes = _chosen(_like(mask, codes.ids), other.ids, other.values, codes)
        return codes

    def apply(self, codes: Codes, at: At) -> Codes:
        """The codes as set; the same object if none are."""
        for key, (ids, strengths) in self._set.items():
            if (mask := at(*key)) is not None:
                codes = _chosen(_like(mask, codes.ids) & (ids != _KEEP), ids, strengths, codes)
        return codes

    def added(self, x: Tensor, at: At) -> Tensor | None:
        """What is added to ``x``, if anything, in its shape from the third axis on."""
        total = None
        for key, vectors in self._added.items():
            if (mask := at(*key)) is not None:
                part = torch.where(_like(mask, x), vectors.reshape(x.shape[2:]).to(x), 0)
                if key[0].follows:
                    part = part * cosine_similarity(x, part, dim=-1).clamp(min=0)[..., None]
                total = part if total is None else total + part
        return total

    def constant(self) -> Float[Tensor, "*group d_in"] | None:
        """The sum of all that is added, if anything, where all of these edits act."""
        return torch.stack(list(self._added.values())).sum(0) if self._added else None

    def _add_set(self, edit: SetCode, group: int | None, key: _Key) -> None:
        k, unit = self.bottleneck.config.k, self.bottleneck.unit_values
        if unit and edit.strength is not None:
            raise InputError(f"strength {edit.strength} at {edit.site}: codes there are just on or off")
        if not unit and edit.strength is None:
            raise InputError(f"codes at {edit.site} have a strength: give SetCode a strength")
        strength = 1.0 if edit.strength is None else _finite("strength", edit.strength, edit.site)
        if key not in self._set:
            shape, device = (*self._lead, k), self.bottleneck.device
            self._set[key] = torch.full(shape, _KEEP, device=device), torch.ones(shape, device=device)
        ids, strengths = (part if group is None else part[group] for part in self._set[key])
        # in rows that two edits name each has slots of its own; what is set later takes the place of what was
        (scope, rows), taken = key, torch.zeros(k, dtype=torch.bool, device=ids.device)
        for (other, named), (others, _) in self._set.items():
            if other is scope and (rows is None or named is None or set(rows) & set(named)):
                taken |= (others != _KEEP)[... if group is None else group].reshape(-1, k).any(0)
        may = self.bottleneck.slots_of(edit.code)
        free = (~taken).nonzero()[:, 0]
        free = free[(free >= may.start) & (free < may.stop)]
        if not 1 <= whole_number("slots", edit.slots) <= len(free):
            left = f"{len(free)} of {len(may)}" if len(free) < len(may) else str(len(may))
            raise InputError(f"slots {edit.slots} for code {edit.code} at {edit.site}: {left} can be set")
        ids[..., free[: edit.slots]] = edit.code
        strengths[..., free[: edit.slots]] = strength

    def _add_added(self, edit: AddCode, group: int | None, key: _Key) -> None:
        scale, index = _finite("scale", edit.scale, edit.site), slice(None) if group is None else group
        shape = (*self._lead, self.bottleneck.config.d_in)
        total = self._added.setdefault(key, torch.zeros(shape, device=self.bottleneck.device))
        vectors = self._vectors(edit.code)
        if edit.from_mean:
            vectors = vectors - self._mean(edit)
        total[index] += scale * vectors[index]
        if not total[index].isfinite().all():
            raise InputError(f"scale {edit.scale} at {edit.site}: what is added there is beyond any number")

    def _add_forbidden(self, edit: ForbidCode, group: int | None, key: _Key) -> None:
        config = self.bottleneck.config
        if not isinstance(self.bottleneck, Dictionary):
            raise InputError(f"code {edit.code} at {edit.site}: a {self.bottleneck.kind} knows no next best code")
        if group is not None and config.groups == 1 and self.groups is not None:
            raise InputError(f"code {edit.code} at {edit.site}: heads share a codebook, name the whole layer")
        shape, device = (config.groups, config.n_codes), self.bottleneck.device
        without = self._forbidden.setdefault(key, torch.zeros(shape, dtype=torch.bool, device=device))
        without[0 if group is None else group, edit.code] = True
        for row in {-1} | {row for _, named in self._forbidden for row in named or ()}:  # −1: none names it
            masks = [mask for (_, named), mask in self._forbidden.items() if named is None or row in named]
            if masks and int(torch.stack(masks).any(0).sum(-1).max()) > config.n_codes - config.k:
                raise InputError(f"code {edit.code} at {edit.site}: too few codes would be left")

    def _vectors(self, code: int) -> Float[Tensor, "*group d_in"]:
        """What the code adds to a decoded vector, at every group; a bias belongs to none."""
        ids = torch.full((*self._lead, 1), code, device=self.bottleneck.device)
        strength = torch.ones(ids.shape, device=ids.device)
        nothing = Codes(torch.full_like(ids, NO_CODE), strength)
        return self.bottleneck.difference(Codes(ids, strength), nothing).detach().float()

    def _mean(self, edit: AddCode) -> Float[Tensor, "*group d_in"]:
        if not isinstance(self.bottleneck, Dictionary):
            raise InputError(f"from_mean at {edit.site}: a {self.bottleneck.kind} has no mean, codebooks have")
        mean = self.bottleneck.means()[:, edit.code]
        return mean if self.groups is not None else mean[0]


def _finite(name: str, value: float | int, site: str) -> float:
    if not math.isfinite(real_number(name, value)):
        raise InputError(f"{name} {value} at {site}: it must be a finite number")
    return float(value)


def _together(forbidden: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Every position once: all that is forbidden there is so together."""
    masks, withouts = (torch.stack(parts) for parts in zip(*forbidden, strict=True))
    kinds, set_of_position = masks.flatten(1).unique(dim=1, return_inverse=True)
    return [
        ((set_of_position == i).view(masks.shape[1:]), withouts[kind].any(0))
        for i, kind in enumerate(kinds.T)
        if kind.any()
    ]


def _like(mask: Bool[Tensor, "batch pos"], x: Tensor) -> Tensor:
    return mask[(..., *[None] * (x.ndim - 2))]


def _chosen(mask: Tensor, ids: Tensor, values: Tensor, codes: Codes) -> Codes:
    return Codes(
        torch.where(mask, ids.to(codes.ids), codes.ids), torch.where(mask, values.to(codes.values), codes.values)
    )
