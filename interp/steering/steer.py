"""Steering: a model runs or generates with some of its codes set, added or forbidden.

::

    with steer(model, codebooks, [SetCode("a12.h3", code=417), SetCode("a14.h0", code=3)]) as steered:
        generate(model, prompts, 60, temperature=1.0)
        steered.ids["a12"]                                   # the codes as set

A site's activation x becomes x + decode(codes as set) − decode(codes): what the codes do not hold stays as it is, and
a site whose codes are not edited is not touched at all. With ``error_term=False`` every codebook is spliced in as
published (Tamkin, Taufeeque & Goodman 2023, arXiv 2310.17230, §4): x becomes decode(codes as set), at all sites, and
the model runs on codes only, which costs a model that was not trained with them some of its fluency.

Replaced codes have no strength of their own. The dose is how many sites, how many of the k slots, and what share of
the tokens.
"""

import re
from collections.abc import Mapping, Sequence
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.bottlenecks.attach import Attached
from interp.bottlenecks.base import Bottleneck, Codes
from interp.bottlenecks.edits import Positions, check_positions, is_among
from interp.errors import InputError, real_number, whole_number
from interp.models import Model, Site, resolve_site
from interp.models.hooks import running_generation
from interp.steering.edit_tensors import SiteEdits
from interp.steering.edits import CodeEdit

Where = str | Positions
"""Which positions: one of three names, ``generated:N``, or columns; see :func:`steer`."""
_NAMED = ("generated", "prompt", "all")
_FROM = re.compile(r"generated:([1-9]\d{0,5})")


def steer(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    edits: Sequence[CodeEdit],
    *,
    positions: Where = "generated",
    share: float | int = 1.0,
    seed: SupportsIndex = 0,
    error_term: bool = True,
) -> "Steered":
    """Edit codes in every forward within the ``with`` block.

    Args:
        codebooks: by site, as :func:`~interp.bottlenecks.store.load_codebooks` gives them.
        edits: at most one book's k codes a head can be set; of sites beside each other all act.
        positions: ``generated`` (from the last token of the prompt on, which is where the first new token is made;
            in a forward by itself the last position), ``generated:N`` (from the N-th new token on), ``prompt``,
            ``all``, or columns of the token batch from 0: ``slice(n, None)`` for all from n on, a number, or several.
        share: of these positions, drawn for each row and position by itself, the same with and without a KV cache.
        seed: of the share.
        error_term: see the module's docstring.

    Raises:
        InputError: no edits, a site without a codebook, a code that it does not have, or a value out of range.
    """
    return Steered(
        model, codebooks, edits, positions=positions, share=share, seed=seed, error_term=error_term
    )


class Steered(Attached):
    """See :func:`steer`; an :class:`~interp.bottlenecks.attach.Attached` whose codes can be read.

    A site at which codes are only added is not read, unless all codebooks are spliced in.
    """

    def __init__(
        self,
        model: Model,
        codebooks: Mapping[str, Bottleneck],
        edits: Sequence[CodeEdit],
        *,
        positions: Where,
        share: float | int,
        seed: SupportsIndex,
        error_term: bool,
    ) -> None:
        if not isinstance(edits, Sequence):
            raise InputError(f"edits {edits!r}: give a list of SetCode, AddCode and ForbidCode")
        if not edits:
            raise InputError("no edits: give at least one SetCode, AddCode or ForbidCode")
        columns_of(positions, 1)
        if not 0 <= (share := real_number("share", share)) <= 1:
            raise InputError(f"share {share}: it must be 0 to 1")
        if not 0 <= (seed := whole_number("seed", seed)) < 2**64:
            raise InputError(f"seed {seed}: it must be 0 or more")
        homes = [home_of(model, codebooks, edit.site) for edit in edits]
        # sites that nothing is done to are left alone
        wanted = {name for name, _ in homes} if error_term else set(codebooks)
        books = {name: book for name, book in codebooks.items() if name in wanted}
        super().__init__(model, books, error_term=error_term)
        self.positions, self.share, self.seed = positions, share, seed
        self._plans: dict[str, SiteEdits] = {}
        for edit, (name, head) in zip(edits, homes, strict=True):
            name = str(resolve_site(model, name))
            if name not in self._plans:
                self._plans[name] = SiteEdits(name, self.bottlenecks[name], self._groups(name))
            self._plans[name].add(edit, head)
        self._prompt = 0
        self._generation: object | None = None
        self._at: Bool[Tensor, "batch pos"] | None = None
        self._anywhere = False

    def _begin(self, offset: int) -> None:
        super()._begin(offset)
        generation = running_generation(self.model)
        # without a cache every step begins at 0: only the first one is the prompt
        if offset == 0 and (generation is None or generation is not self._generation):
            self._prompt = 0
        self._generation, self._at = generation, None

    def _pass(self, names: list[str], whole: Tensor) -> Tensor | None:
        if self._at is None:  # the first site of this forward
            self._prompt = self._prompt or whole.shape[1]
            columns = range(self._offset, self._offset + whole.shape[1])
            self._at = self._chosen(whole.shape[0], columns).to(whole.device)
            self._anywhere = bool(self._at.any())
        return super()._pass(names, whole)

    def _replaced(self, name: str, x: Tensor) -> Tensor:
        plan = self._plans.get(name)
        unread = plan is not None and not plan.edits_codes and not self._edits[name]
        out = x if unread and self.error_term else super()._replaced(name, x)
        added = plan.added(x, self._at) if plan is not None and self._anywhere else None
        return out if added is None else out + added

    def _edited(self, name: str, x: Tensor, codes: Codes) -> Codes:
        plan = self._plans.get(name)
        if plan is None or not self._anywhere:
            return super()._edited(name, x, codes)
        # a code that is set by hand stays where another is forbidden
        codes = super()._edited(name, x, plan.allowed(codes, x, self._at))
        return plan.apply(codes, self._at)

    def chosen(self, n_rows: int, n_positions: int) -> Bool[Tensor, "batch pos"]:
        """At which positions, from 0, of the last forward or generation codes are edited, in rows that edits name.

        The last token that is generated is never read: nothing is edited there.
        """
        return self._chosen(n_rows, range(n_positions))

    def _chosen(self, n_rows: int, columns: Sequence[int]) -> Bool[Tensor, "batch pos"]:
        positions = columns_of(self.positions, self._prompt)
        chosen = torch.tensor([is_among(positions, column) for column in columns])
        if self.share == 1:
            return chosen.expand(n_rows, -1)
        drawn = np.stack([self._drawn(column, n_rows) for column in columns], 1)
        return torch.from_numpy(drawn) & chosen

    def _drawn(self, column: int, n_rows: int) -> Bool[np.ndarray, " batch"]:
        """A row's draw depends on seed, column and its own number, not on how the batch is run.

        Columns count padding: beside a longer prompt the same prompt is edited at other tokens.
        """
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, column], dtype=np.uint64)))
        return generator.random(n_rows) < self.share


def columns_of(positions: Where, n_prompt: int) -> Positions:
    """The columns that positions stand for where a prompt of so many tokens is continued.

    The token that makes the N-th new one is the one before it.

    Raises:
        InputError: positions that cannot be.
    """
    if not isinstance(positions, str):
        check_positions(positions)
        return positions
    if positions in _NAMED:
        return {"prompt": slice(0, n_prompt), "generated": slice(n_prompt - 1, None), "all": None}[positions]
    later = _FROM.fullmatch(positions)
    if later is None:
        raise InputError(
            f"positions {positions!r}: choose {', '.join(_NAMED)} or generated:N (from the N-th new token on), "
            "or give columns"
        )
    return slice(n_prompt + int(later[1]) - 2, None)


def home_of(model: Model, codebooks: Mapping[str, Bottleneck], site: str) -> tuple[str, int | None]:
    """The codebook that holds the codes of a site, and which of its groups."""
    place = resolve_site(model, site)
    by_site = {resolve_site(model, name): name for name in codebooks}
    if place in by_site:
        name = by_site[place]
        if codebooks[name].config.groups > 1:
            if place.kind != "attn":
                raise InputError(
                    f"site {site} has a codebook that shares out its vectors: codes of such books cannot be named"
                )
            last = codebooks[name].config.groups - 1
            raise InputError(f"site {site} has a codebook per head: name one, {site}.h0 to {site}.h{last}")
        return name, None
    layer = Site("attn", place.layer)
    if place.head is not None and layer in by_site:
        name = by_site[layer]
        if codebooks[name].config.d_in == model.cfg.d_head:
            return name, place.head
    there = ", ".join(codebooks) if len(codebooks) <= 6 else " … ".join((*codebooks,)[:: len(codebooks) - 1])
    raise InputError(f"no codebook at {site}: there are some at {there or 'no site'}")
