"""The edits of one site as tensors: however many heads they name, a forward does a handful of operations."""

import math
import operator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.bottlenecks.base import NO_CODE, Bottleneck, Codes
from interp.bottlenecks.codebook import Codebook
from interp.errors import InputError, real_number, whole_number
from interp.steering.edits import AddCode, CodeEdit, ForbidCode, SetCode

Rows = tuple[int, ...] | None
_KEEP = -2
"""An id that leaves a slot as it is."""


class SiteEdits:
    """Forbidden codes act first (:meth:`allowed`), then set ones (:meth:`apply`), then added ones (:meth:`added`).

    Args:
        name: of the site, for messages.
        groups: length of the group axis of the codes, if they have one.
    """

    def __init__(self, name: str, bottleneck: Bottleneck, groups: int | None) -> None:
        self.name, self.bottleneck, self.groups = name, bottleneck, groups
        self._lead = () if groups is None else (groups,)
        self._set: dict[Rows, tuple[Tensor, Tensor]] = {}
        self._added: dict[Rows, Tensor] = {}
        self._forbidden: dict[Rows, Tensor] = {}

    @property
    def edits_codes(self) -> bool:
        """Whether the codes have to be known."""
        return bool(self._set or self._forbidden)

    def add(self, edit: CodeEdit, group: int | None) -> None:
        """Take in an edit of one group, or of all.

        Raises:
            InputError: a code, a strength, a number of slots or rows that cannot be.
        """
        n_codes = self.bottleneck.config.n_codes
        try:
            operator.index(edit.code)
        except TypeError:
            raise InputError(f"code {edit.code!r} at {edit.site}: it must be a whole number") from None
        if not 0 <= edit.code < n_codes:
            raise InputError(f"code {edit.code} at {edit.site}: the codebook there has 0 to {n_codes - 1}")
        rows = _rows(edit.rows)
        if isinstance(edit, SetCode):
            self._add_set(edit, rows, group)
        elif isinstance(edit, AddCode):
            scale = _finite("scale", edit.scale, edit.site)
            shape = (*self._lead, self.bottleneck.config.d_in)
            total = self._added.setdefault(rows, torch.zeros(shape, device=self.bottleneck.device))
            which = slice(None) if group is None else group
            vectors = self._vectors(edit.code)
            if edit.from_mean:
                vectors = vectors - self._mean(edit.site)
            total[which] += scale * vectors[which]
            if not total[which].isfinite().all():
                raise InputError(
                    f"scale {edit.scale} at {edit.site}: what is added there is beyond any number"
                )
        else:
            self._add_forbidden(edit, rows, group)

    def allowed(self, codes: Codes, x: Tensor, at: Bool[Tensor, "batch pos"]) -> Codes:
        """The codes of ``x`` without forbidden ones; the same object if nothing is forbidden."""
        for rows, without in self._forbidden_at(at).items():
            chosen = _among(at, rows)[(..., *[None] * (codes.ids.ndim - 2))]
            # groups in which nothing is forbidden choose as before
            other = self.bottleneck.encode_without(x, without)
            codes = Codes(
                torch.where(chosen, other.ids, codes.ids), torch.where(chosen, other.values, codes.values)
            )
        return codes

    def apply(self, codes: Codes, at: Bool[Tensor, "batch pos"]) -> Codes:
        """The codes as set; the same object if none are."""
        for rows, (ids, strengths) in self._set.items():
            chosen = _among(at, rows)[(..., *[None] * (codes.ids.ndim - 2))] & (ids != _KEEP)
            codes = Codes(
                torch.where(chosen, ids.to(codes.ids), codes.ids),
                torch.where(chosen, strengths.to(codes.values), codes.values),
            )
        return codes

    def added(self, x: Tensor, at: Bool[Tensor, "batch pos"]) -> Tensor | None:
        """What is added to ``x``, if anything, in its shape from the third axis on."""
        total = None
        for rows, vectors in self._added.items():
            chosen = _among(at, rows)[(..., *[None] * (x.ndim - 2))]
            part = torch.where(chosen, vectors.reshape(x.shape[2:]).to(x), 0)
            total = part if total is None else total + part
        return total

    def _forbidden_at(self, at: Bool[Tensor, "batch pos"]) -> dict[Rows, Tensor]:
        """What is forbidden in which rows, every row once: all that is forbidden there is so together."""
        if len(self._forbidden) < 2:
            return self._forbidden
        for rows in self._forbidden:
            _among(at, rows)  # which refuses rows that the batch has not
        together: dict[tuple[Rows, ...], list[int]] = {}
        for row in range(len(at)):
            named = tuple(rows for rows in self._forbidden if rows is None or row in rows)
            if named:
                together.setdefault(named, []).append(row)
        return {
            tuple(rows): torch.stack([self._forbidden[one] for one in named]).any(0)
            for named, rows in together.items()
        }

    def _vectors(self, code: int) -> Float[Tensor, "*group d_in"]:
        """What the code adds to a decoded vector, at every group; a bias belongs to none."""
        ids = torch.full((*self._lead, 1), code, device=self.bottleneck.device)
        strength = torch.ones(ids.shape, device=ids.device)
        nothing = Codes(torch.full_like(ids, NO_CODE), strength)
        return self.bottleneck.difference(Codes(ids, strength), nothing).detach().float()

    def _mean(self, site: str) -> Float[Tensor, "*group d_in"]:
        if not isinstance(self.bottleneck, Codebook):
            raise InputError(f"from_mean at {site}: only codebooks have a mean, not a {self.bottleneck.kind}")
        mean = self.bottleneck.mean_code()
        return mean if self.groups is not None else mean[0]

    def _add_set(self, edit: SetCode, rows: Rows, group: int | None) -> None:
        k, unit = self.bottleneck.config.k, self.bottleneck.unit_values
        slots = whole_number("slots", edit.slots)
        strength = None if edit.strength is None else _finite("strength", edit.strength, edit.site)
        if unit and strength is not None:
            raise InputError(f"strength {strength} at {edit.site}: codes there are just on or off")
        if not unit and strength is None:
            raise InputError(f"codes at {edit.site} have a strength: give SetCode a strength")
        if rows not in self._set:
            shape, device = (*self._lead, k), self.bottleneck.device
            self._set[rows] = torch.full(shape, _KEEP, device=device), torch.ones(shape, device=device)
        ids, strengths = (part if group is None else part[group] for part in self._set[rows])
        # in rows that two edits name each has slots of its own
        taken = torch.zeros(k, dtype=torch.bool, device=ids.device)
        for named, (others, _) in self._set.items():
            if rows is None or named is None or set(rows) & set(named):
                taken |= (others != _KEEP)[... if group is None else group].reshape(-1, k).any(0)
        free = (~taken).nonzero()[:, 0]
        if not 1 <= slots <= len(free):
            left = f"{len(free)} of {k}" if len(free) < k else str(k)
            raise InputError(f"slots {slots} for code {edit.code} at {edit.site}: {left} can be set")
        ids[..., free[:slots]] = edit.code
        strengths[..., free[:slots]] = 1.0 if strength is None else strength

    def _add_forbidden(self, edit: ForbidCode, rows: Rows, group: int | None) -> None:
        config = self.bottleneck.config
        if not isinstance(self.bottleneck, Codebook):
            raise InputError(
                f"code {edit.code} at {edit.site}: only codebooks know a next best code, not a {self.bottleneck.kind}"
            )
        if group is not None and config.groups == 1 and self.groups is not None:
            raise InputError(f"code {edit.code} at {edit.site}: heads share a codebook, name the whole layer")
        shape, device = (config.groups, config.n_codes), self.bottleneck.device
        without = self._forbidden.setdefault(rows, torch.zeros(shape, dtype=torch.bool, device=device))
        without[0 if group is None else group, edit.code] = True
        apart = {row for named in self._forbidden if named for row in named} | {
            -1
        }  # −1: a row that none names
        most = max(
            int(torch.stack(masks).any(0).sum(-1).max())
            for row in apart
            if (masks := [mask for named, mask in self._forbidden.items() if named is None or row in named])
        )
        if most > config.n_codes - config.k:
            raise InputError(f"code {edit.code} at {edit.site}: too few codes would be left to choose from")


def _finite(name: str, value: object, site: str) -> float:
    number = real_number(name, value)
    if not math.isfinite(number):
        raise InputError(f"{name} {value} at {site}: it must be a finite number")
    return number


def _rows(rows: object) -> Rows:
    if rows is None:
        return None
    try:
        numbers = sorted({operator.index(row) for row in rows})
    except TypeError:
        numbers = []
    if not numbers or numbers[0] < 0:
        raise InputError(f"rows {rows!r}: name rows of the batch, from 0, in a list")
    return tuple(numbers)


def _among(at: Bool[Tensor, "batch pos"], rows: Rows) -> Bool[Tensor, "batch pos"]:
    if rows is None:
        return at
    if rows[-1] >= len(at):
        raise InputError(f"row {rows[-1]}: the batch has {len(at)}")
    wanted = torch.zeros(len(at), 1, dtype=torch.bool, device=at.device)
    wanted[list(rows)] = True
    return at & wanted
