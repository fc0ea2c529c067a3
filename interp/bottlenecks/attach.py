"""Attaching bottlenecks to a model: its activations pass through codes that can be read and set as it runs.

::

    with attach(model, {"a5": codebook, "m7": another}) as attached:
        model(tokens)
        attached.ids["a5"]                                  # [batch, pos, head, k]
        attached.set_ids("m7", 123, positions=slice(9, None))
        generate(model, tokens, 40)

A site's activation x becomes ``decode(encode(x))``; with an error term x + decode(edited codes) − decode(codes),
which is x itself, bit for bit, until a code is set. The plain form is a bottleneck: the rest of the model sees codes
only, so that a set code meets nothing it could be undone by. With the error term whatever the codes do not hold
passes by them, which leaves the model's behaviour alone and can carry the very thing that a set code was to replace.

The hooks stand under a level of their own, so that contexts nest and detaching restores the model bit for bit.
"""

import contextlib
import threading
import warnings
from collections.abc import Mapping
from functools import partial, reduce
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks.base import Bottleneck, Codes, straight_through
from interp.bottlenecks.edits import Edit, Ids, Positions, needs_strength
from interp.errors import InputError
from interp.models import Model, Site, hooked, model_device, resolve_site
from interp.models.hooks import forwards_watched


def attach(model: Model, bottlenecks: Mapping[str, Bottleneck], *, error_term: bool = False) -> "Attached":
    """Put each bottleneck at its site (``a5.h3``, ``a5``, ``m2``, ``r4``).

    At ``a5`` a bottleneck has one group per head, or one group that all heads share, or one for the vector of all
    heads at once, as SAEs on z have it; at ``m2`` and ``r4`` one of the model's width, or several that share it out
    in equal parts. Nothing is attached before the ``with`` block or
    :meth:`Attached.attach`.

    Args:
        error_term: add what the codes leave out, see the module's docstring.

    Raises:
        InputError: a site that the model lacks or that is named twice, a bottleneck that does not fit, or one on
            another device.

    Warns of a bottleneck that was made for another place.
    """
    return Attached(model, bottlenecks, error_term=error_term)


def groups_at(model: Model, site: Site, bottleneck: Bottleneck) -> int | None:
    """Length of the group axis that codes have at a site, if they have one there."""
    config = bottleneck.config
    if site.kind == "attn" and site.head is None and config.d_in == model.cfg.d_head:
        return model.cfg.n_heads
    return config.groups if config.groups > 1 else None


class Attached:
    """Bottlenecks at the sites of a model; a context manager, or :meth:`attach` and :meth:`detach`.

    While attached the calling thread holds the model's lock: other threads that run hooked forwards wait. Attach
    and detach in the same thread.
    """

    def __init__(
        self, model: Model, bottlenecks: Mapping[str, Bottleneck], *, error_term: bool = False
    ) -> None:
        self.model, self.error_term = model, error_term
        places = {name: resolve_site(model, name) for name in bottlenecks}
        self._places = {str(place): place for place in places.values()}
        self.bottlenecks = {str(places[name]): b for name, b in bottlenecks.items()}
        if len(self.bottlenecks) < len(bottlenecks):
            raise InputError(f"bottlenecks at {', '.join(bottlenecks)}: a site is named twice")
        for name, bottleneck in self.bottlenecks.items():
            _check_fit(model, self._places[name], bottleneck)
        self._enabled = set(self.bottlenecks)
        self._edits: dict[str, list[Edit]] = {name: [] for name in self.bottlenecks}
        self._seen: dict[str, list[Codes]] = {}
        self._losses: dict[str, Tensor] = {}
        self._offset = self._next = 0
        self._stack: contextlib.ExitStack | None = None
        self._thread: int | None = None

    def __enter__(self) -> "Attached":
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def attach(self) -> "Attached":
        """Put the hooks in place and take the model's lock."""
        if self._stack is not None:
            raise RuntimeError("these bottlenecks are attached already")
        with contextlib.ExitStack() as stack:
            by_hook: dict[str, list[str]] = {}
            for name, place in self._places.items():
                by_hook.setdefault(place.hook, []).append(name)
            passes = {hook: partial(self._pass, names) for hook, names in by_hook.items()}
            stack.enter_context(hooked(self.model, passes))
            stack.enter_context(forwards_watched(self.model, self._begin))
            self._stack = stack.pop_all()
        self._thread = threading.get_ident()
        return self

    def detach(self) -> None:
        """Remove the hooks; the model is then as before, and the codes last seen can still be read."""
        if self._stack is None:
            raise RuntimeError("these bottlenecks are not attached")
        if self._thread != threading.get_ident():
            raise RuntimeError("detach in the thread that attached: it holds the model's lock")
        stack, self._stack = self._stack, None
        stack.close()

    @property
    def codes(self) -> dict[str, Codes]:
        """The codes of the last forward or generation by site, as decoded, that is with what was set.

        Under a KV cache the steps are joined: one entry per position that the model has read.
        """
        return {
            name: Codes(torch.cat([c.ids for c in seen], 1), torch.cat([c.values for c in seen], 1))
            for name, seen in self._seen.items()
        }

    @property
    def ids(self) -> dict[str, Int[Tensor, "..."]]:
        """The ids of :attr:`codes`: [batch, pos, k], with groups [batch, pos, group, k]."""
        return {name: codes.ids for name, codes in self.codes.items()}

    def set_ids(
        self,
        site: str,
        ids: Ids,
        *,
        positions: Positions = None,
        group: int | None = None,
        slot: int | None = None,
        values: float | int | Tensor | Literal["kept"] | None = None,
    ) -> None:
        """Set codes in every forward from now on; several settings of a site act in the order given.

        Args:
            site: one of the attached.
            ids: one id (:data:`~interp.bottlenecks.base.NO_CODE` empties a slot), ids that broadcast to
                [batch, pos, (group,) slot] of what is chosen, or a function of such ids and the position numbers.
            positions: a number, several, ``slice(n, None)`` for all from n on, None for all; columns of the token
                batch from 0, with and without a KV cache alike.
            group: one head (or other group); None for all.
            slot: one of the k places, −1 the weakest; None for all.
            values: strength: the factor by which the code is multiplied, or ``kept`` for what each slot had.
                Codes that are just on or off have 1 unless told otherwise; others need it.

        Raises:
            InputError: anything that is not there, or a missing strength.
        """
        name, bottleneck = self._known(site)
        if values is None:
            if needs_strength(bottleneck, ids):
                raise InputError(f"codes at {name} have a strength: give values, a number or 'kept'")
            values = 1.0
        edit = Edit(ids, positions, group, slot, values)
        n_groups = self._groups(name)
        edit.check(bottleneck, grouped=n_groups is not None, n_groups=n_groups or 1)
        self._edits[name].append(edit)

    def clear_ids(self, site: str | None = None) -> None:
        """Let the codes of a site, or of all, be what the model makes them again."""
        for name in self._edits if site is None else [self._known(site)[0]]:
            self._edits[name] = []

    def disable(self, site: str) -> None:
        """Let the activation of a site pass untouched, its codes unread."""
        self._enabled.discard(self._known(site)[0])

    def enable(self, site: str) -> None:
        """Undo :meth:`disable`."""
        self._enabled.add(self._known(site)[0])

    def loss(self) -> Float[Tensor, ""]:
        """Sum over sites of the bottlenecks' losses in the last forward, for training the codes.

        Raises:
            RuntimeError: there was no forward with gradients through anything that trains.
        """
        if not self._losses:
            raise RuntimeError("no loss: run a forward with gradients and bottlenecks that can be trained")
        return torch.stack(list(self._losses.values())).sum()

    def _known(self, site: str) -> tuple[str, Bottleneck]:
        name = str(resolve_site(self.model, site))
        if name not in self.bottlenecks:
            raise InputError(f"no bottleneck at {name}: there are some at {', '.join(self.bottlenecks)}")
        return name, self.bottlenecks[name]

    def _groups(self, name: str) -> int | None:
        """Length of the group axis of the codes, if they have one."""
        return groups_at(self.model, self._places[name], self.bottlenecks[name])

    def _begin(self, offset: int) -> None:
        if offset == 0 or offset != self._next:
            self._seen = {}
        self._losses = {}
        self._offset = offset

    def _pass(self, names: list[str], whole: Tensor) -> Tensor | None:
        """What a hook point passes on: its sites in turn, the heads among them taken apart and together once."""
        self._next = self._offset + whole.shape[1]
        enabled = [name for name in names if name in self._enabled]
        for single, some in groupby(enabled, key=lambda name: self._places[name].head is not None):
            if not single:
                whole = reduce(lambda x, name: self._replaced(name, x), some, whole)
                continue
            heads = list(whole.unbind(2))
            for name in some:
                head = self._places[name].head
                heads[head] = self._replaced(name, heads[head])
            # not in place: the gradient of the other heads must find its way too
            whole = torch.stack(heads, 2)
        return whole if enabled else None

    def _replaced(self, name: str, x: Tensor) -> Tensor:
        bottleneck = self.bottlenecks[name]
        shape, config = x.shape, bottleneck.config
        if x.shape[-1] != config.d_in:  # groups share out the vector, or one takes the heads together
            x = x.reshape(*shape[:2], *([config.groups] if config.groups > 1 else []), config.d_in)

        trains = torch.is_grad_enabled() and any(p.requires_grad for p in bottleneck.parameters())
        plain = bottleneck.encode(x)
        codes = self._edited(name, x, plain)
        self._seen.setdefault(name, []).append(Codes(codes.ids, codes.values.detach()))

        if self.error_term and not trains:
            out = x if codes is plain else x + bottleneck.difference(codes, plain).to(x.dtype)
            return out.reshape(shape)
        decoded = bottleneck.decode(codes)
        without = bottleneck.decode(plain) if codes is not plain and trains else decoded
        if trains:
            self._losses[name] = bottleneck.loss(x, without)
        # of equal codes the difference is exactly zero
        out = x + (decoded - without).to(x.dtype) if self.error_term else straight_through(x, decoded)
        return out.reshape(shape)

    def _edited(self, name: str, _x: Tensor, codes: Codes) -> Codes:
        """The codes of a site as set; the very same object where nothing is set."""
        for edit in self._edits[name]:
            codes = edit.apply(codes, self._offset, self.bottlenecks[name].config.n_codes)
        return codes


def _check_fit(model: Model, place: Site, bottleneck: Bottleneck) -> None:
    groups, d_in = bottleneck.config.groups, bottleneck.config.d_in
    heads, d_head, d_model = model.cfg.n_heads, model.cfg.d_head, model.cfg.d_model
    if place.kind != "attn":
        fits, has = groups * d_in == d_model, f"vectors of size {d_model}"
    elif place.head is None:
        per_head = d_in == d_head and groups in (1, heads)
        fits = per_head or (groups == 1 and d_in == heads * d_head)
        has = f"{heads} heads of size {d_head}"
    else:
        fits, has = d_in == d_head and groups == 1, f"one head of size {d_head}"
    if not fits:
        raise InputError(
            f"site {place} has {has}: a bottleneck of {groups} group(s) of size {d_in} does not fit"
        )
    trained_at = bottleneck.trained_at
    # a hook has several names in a bridge
    if trained_at is not None and model.hook_dict.get(trained_at) is not model.hook_dict[place.hook]:
        warnings.warn(
            f"the bottleneck at {place} was made for {trained_at}, not for {place.hook}",
            stacklevel=4,
        )
    here, there = bottleneck.device, model_device(model)
    if here != there:
        raise InputError(f"the bottleneck for {place} is on {here}, the model on {there}: move it with .to")
