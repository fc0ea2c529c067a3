"""Attaching bottlenecks to a model: its activations pass through codes that can be read and edited as it runs.

A site's activation x becomes x + decode(edited codes) − decode(codes), which is x itself, bit for bit, until a code is
edited. So an unedited model is unchanged; but what the codes do not hold passes by them, and can carry the very thing
that a set code was to replace. With ``error_term=False`` the codes are spliced in as published (Tamkin, Taufeeque &
Goodman 2023, arXiv 2310.17230, §4): x becomes decode(edited codes), and the rest of the model sees codes only, which
costs a model that was not trained with them some of its fluency.

The hooks stand under a level of their own, so that contexts nest and detaching restores the model bit for bit.
"""

import contextlib
import threading
import warnings
from collections.abc import Mapping
from functools import partial, reduce
from itertools import groupby
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.bottlenecks.base import Bottleneck, Codes, straight_through
from interp.bottlenecks.edits import CodeEdit, EditScope, Positions, Rows, SiteEdits
from interp.bottlenecks.gates import Gate
from interp.errors import InputError
from interp.models import Model, Site, hooked, model_device, parse_site, resolve_site
from interp.models.generate import generate
from interp.models.hooks import check_model, forwards_watched, running_generation


def attach(
    model: Model, bottlenecks: Mapping[str, Bottleneck], *, error_term: bool = True, read: bool = True
) -> "Attached":
    """Put each bottleneck at its site (``a5.h3``, ``a5``, ``m2``, ``r4``).

    At ``a5`` a bottleneck has one group per head, or one group that all heads share, or one for the vector of all
    heads at once, as SAEs on z have it; at ``m2`` and ``r4`` one of the model's width, or several that share it out
    in equal parts. Nothing is attached before the ``with`` block or :meth:`Attached.attach`.

    >>> with attach(model, codebooks) as coded:
    ...     logits = model("Once upon a time")
    >>> coded.codes["a21.h6"].ids.shape  # [batch, position, codes]
    torch.Size([1, 5, 1])

    Refuses sites that the model lacks, and bottlenecks that do not fit or are on another device; warns of one that was
    made for another place. ``error_term`` adds what the codes leave out, see the module. With it, ``read=False`` reads
    codes only where edits need them, which saves time.
    """
    return Attached(model, bottlenecks, error_term, read)


def groups_at(model: Model, site: Site, bottleneck: Bottleneck) -> int | None:
    """Length of the group axis that codes have at a site, if they have one there."""
    config = bottleneck.config
    if site.kind == "attn" and site.head is None and config.d_in == model.cfg.d_head:
        return model.cfg.n_heads
    return config.groups if config.groups > 1 else None


class _BySite(dict):
    """Codes or ids by site; one head of a layer's, or a site in another notation, is found too."""

    def __missing__(self, site: str) -> Any:
        place = parse_site(site)
        if (name := str(place)) in self:
            return self[name]
        layer = self.get(f"a{place.layer}")
        ids = layer.ids if isinstance(layer, Codes) else layer
        # without an axis of heads the codes are of all heads' outputs together
        if place.head is None or ids is None or ids.ndim != 4 or place.head >= ids.shape[2]:
            raise KeyError(site)
        ids = ids[:, :, place.head]
        return Codes(ids, layer.values[:, :, place.head]) if isinstance(layer, Codes) else ids


_GateCode = tuple[str, int | None, int]  # a code that a gate asks for: its codebook, the group there, and the code


class Attached:
    """Bottlenecks at the sites of a model; a context manager, or :meth:`attach` and :meth:`detach`.

    While attached the calling thread holds the model's lock: other threads that run hooked forwards wait. Attach
    and detach in the same thread.
    """

    def __init__(self, model: Model, bottlenecks: Mapping[str, Bottleneck], error_term: bool, read: bool) -> None:
        check_model(model)
        if not isinstance(bottlenecks, Mapping) or not bottlenecks:
            raise InputError(f"bottlenecks {bottlenecks!r:.60}: give at least one, by its site")
        self.model, self.error_term, self.read = model, error_term, read
        places = {name: resolve_site(model, name) for name in bottlenecks}
        self._places = {str(place): place for place in places.values()}
        self.bottlenecks = {str(places[name]): b for name, b in bottlenecks.items()}
        if len(self.bottlenecks) < len(bottlenecks):
            raise InputError(f"bottlenecks at {', '.join(bottlenecks)}: a site is named twice")
        for name, bottleneck in self.bottlenecks.items():
            _check_fit(model, self._places[name], bottleneck)
        self._given: list[tuple[CodeEdit, EditScope]] = []
        self._edits: dict[str, SiteEdits] = {}
        self._masks: dict[tuple[EditScope, Rows], Tensor | None] = {}
        self._seen: dict[str, list[Codes]] = {}
        self._tokens: list[Tensor | None] = []
        self._fired: dict[_GateCode, list[Tensor]] = {}
        self._losses: dict[str, Tensor] = {}
        self._offset = self._next = self._prompt = 0
        self._generation: object | None = None
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
        """The codes of the last forward or generation by site, as decoded, with what was set; of ``codes["a5"]``
        one head's are ``codes["a5.h3"]``. Under a KV cache the steps are joined: one entry per position that was read.
        """
        return _BySite(
            (name, Codes(torch.cat([c.ids for c in seen], 1), torch.cat([c.values for c in seen], 1)))
            for name, seen in self._seen.items()
        )

    @property
    def ids(self) -> dict[str, Int[Tensor, "..."]]:
        """The ids of :attr:`codes`: [batch, pos, k], with groups [batch, pos, group, k]."""
        return _BySite((name, codes.ids) for name, codes in self.codes.items())

    def edit(
        self,
        *edits: CodeEdit,
        positions: Positions = "generated",
        fraction: float | int = 1.0,
        seed: SupportsIndex = 0,
        when: str | None = None,
    ) -> "Attached":
        """Edit codes in every forward from now on; returns this object.

        >>> steered = attach(model, codebooks).edit(AddCode("a21.h6", 17, 9), when="token:girl|boy")

        Edits of one call act together. Codes that a later call sets replace earlier ones. A code that any call forbids
        is used only where it is set by name. If one edit is refused, none is made.

        Args:
            positions: see :mod:`interp.bottlenecks.edits`.
            fraction: of these positions, drawn for each row and position by itself.
            seed: of the fraction.
            when: what has to hold at a position, see :mod:`interp.bottlenecks.gates`; None for nothing.
        """
        if not edits or not all(isinstance(edit, CodeEdit) for edit in edits):
            raise InputError("no edits: give at least one SetCode, AddCode or ForbidCode")
        scope = EditScope(positions, fraction, seed, when)
        self._take([*self._given, *((edit, scope) for edit in edits)])
        return self

    def clear(self, site: str | None = None) -> None:
        """Take back the edits at a site, or all."""
        kept = [] if site is None else [(e, s) for e, s in self._given if self._home(e.site) != self._home(site)]
        self._take(kept)

    def generate(self, prompts: Int[Tensor, "batch pos"] | list[str] | str, n_tokens: int, **options: Any) -> Any:
        """As :func:`~interp.models.generate.generate`; attaches for as long as it takes, unless attached."""
        with contextlib.nullcontext() if self._stack is not None else self:
            return generate(self.model, prompts, n_tokens, **options)

    def edited_positions(self, n_rows: int, n_positions: int) -> Bool[Tensor, "batch pos"]:
        """At which positions, from 0, of the last forward or generation codes are edited, in rows that edits name: not
        at the last token that is generated, which is never read."""
        edited = torch.zeros(n_rows, n_positions, dtype=torch.bool)
        for scope in {s for _, s in self._given} if self._tokens else ():
            mask = scope.mask(n_rows, range(n_positions), self._prompt)
            if scope.gate is not None:
                held = self._held(scope.gate, slice(None)).cpu()[:, :n_positions]
                mask = mask & torch.nn.functional.pad(held, (0, n_positions - held.shape[1]))
            edited |= mask
        return edited

    def added(self) -> dict[str, Float[Tensor, "*group d_in"]]:
        """What :class:`AddCode` edits add at each site, all of them together."""
        added = {site: edits.constant() for site, edits in self._edits.items()}
        return {site: vectors for site, vectors in added.items() if vectors is not None}

    def loss(self) -> Float[Tensor, ""]:
        """Sum over sites of the bottlenecks' losses in the last forward, for training the codes."""
        if not self._losses:
            raise RuntimeError("no loss: run a forward with gradients and bottlenecks that can be trained")
        return torch.stack(list(self._losses.values())).sum()

    def _home(self, site: str) -> tuple[str, int | None]:
        return home_of(self.model, self.bottlenecks, site)

    def _take(self, given: list[tuple[CodeEdit, EditScope]]) -> None:
        planned: dict[str, SiteEdits] = {}
        watched: dict[_GateCode, list[Tensor]] = {}
        for edit, scope in given:
            name, group = self._home(edit.site)
            watched |= {code: [] for code in self._gate_codes(scope.gate, edit.site)}
            if name not in planned:
                book = self.bottlenecks[name]
                planned[name] = SiteEdits(book, groups_at(self.model, self._places[name], book))
            planned[name].add(edit, group, scope)
        self._given, self._edits, self._masks, self._fired = given, planned, {}, watched

    def _gate_codes(self, gate: Gate | None, edited: str | None = None) -> list[_GateCode]:
        """The codes of a gate, by where they are read; none may be read after a site is edited."""
        codes = []
        for site, code in () if gate is None else gate.codes:
            name, group = self._home(site)
            if not code < (n_codes := self.bottlenecks[name].config.n_codes):
                raise InputError(f"gate {site}={code}: the codebook there has 0 to {n_codes - 1}")
            if edited is not None and self._places[name].order > parse_site(edited).order:
                raise InputError(f"gate {site}={code}: it is read after {edited} is edited, choose an earlier site")
            codes.append((name, group, code))
        return codes

    def _held(self, gate: Gate, steps: slice) -> Bool[Tensor, "batch pos"]:
        """Where a gate was open, in steps of the forward or generation under way."""
        if gate.codes:
            fired = [torch.cat(self._fired[code][steps], 1) for code in self._gate_codes(gate)]
            return torch.stack(fired).any(0)
        tokens = [step for step in self._tokens[steps] if step is not None]
        if self.model.tokenizer is None or not tokens:
            raise InputError(f"gate {gate.text!r}: the model reads no tokens that have a text")
        return gate.of_tokens(self.model.tokenizer, torch.cat(tokens, 1))

    def _begin(self, offset: int, tokens: Tensor | None) -> None:
        if offset == 0 or offset != self._next:
            self._seen, self._tokens = {}, []
            self._fired = {code: [] for code in self._fired}
        self._tokens.append(tokens)
        self._losses, self._masks = {}, {}
        self._offset = offset
        generation = running_generation(self.model)
        # without a cache every step begins at 0: only the first one is the prompt
        if offset == 0 and (generation is None or generation is not self._generation):
            self._prompt = 0
        self._generation = generation

    def _pass(self, names: list[str], whole: Tensor) -> Tensor | None:
        """What a hook point passes on: its sites in turn, the heads among them taken apart and together once."""
        self._next = self._offset + whole.shape[1]
        self._prompt = self._prompt or whole.shape[1]
        for name in {name for name, *_ in self._fired if name in names}:
            self._watch(name, whole)
        every = self.read or not self.error_term
        acting = [name for name in names if every or name in self._edits]
        for single, names_here in groupby(acting, key=lambda name: self._places[name].head is not None):
            if not single:
                whole = reduce(lambda x, name: self._replaced(name, x), names_here, whole)
                continue
            heads = list(whole.unbind(2))
            for name in names_here:
                if (head := self._places[name].head) is not None:
                    heads[head] = self._replaced(name, heads[head])
            # not in place: the gradient of the other heads must find its way too
            whole = torch.stack(heads, 2)
        return whole if acting else None

    def _at(self, x: Tensor, scope: EditScope, rows: Rows) -> Bool[Tensor, "batch pos"] | None:
        """Where edits of these rows act in this forward; None for nowhere."""
        if (scope, rows) not in self._masks:
            columns = range(self._offset, self._offset + x.shape[1])
            mask = scope.mask(len(x), columns, self._prompt).to(x.device)
            if scope.gate is not None and mask.any():
                mask = mask & self._held(scope.gate, slice(-1, None))
            if rows is not None:
                if rows[-1] >= len(x):
                    raise InputError(f"row {rows[-1]}: the batch has {len(x)}")
                named = torch.zeros(len(x), 1, dtype=torch.bool, device=x.device)
                named[list(rows)] = True
                mask = mask & named
            self._masks[scope, rows] = mask if mask.any() else None
        return self._masks[scope, rows]

    def _replaced(self, name: str, x: Tensor) -> Tensor:
        edits, at = self._edits.get(name), partial(self._at, x)
        read = self.read or not self.error_term or (edits is not None and edits.reads)
        out = self._coded(name, x, edits) if read else x
        added = None if edits is None else edits.added(x, at)
        return out if added is None else out + added

    def _watch(self, name: str, whole: Tensor) -> None:
        """Note where the codes of a site are that gates ask for."""
        head = self._places[name].head
        x = whole if head is None else whole[:, :, head]
        codes = self.bottlenecks[name].encode(_shared_out(x, self.bottlenecks[name]))
        for (site, group, code), seen in self._fired.items():
            if site == name:
                # features that are not active fill the slots of a SAE
                active = (codes.ids == code) & (codes.values != 0)
                seen.append((active if group is None else active[:, :, group]).any(-1))

    def _coded(self, name: str, x: Tensor, edits: SiteEdits | None) -> Tensor:
        bottleneck = self.bottlenecks[name]
        shape, x = x.shape, _shared_out(x, bottleneck)
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in bottleneck.parameters())
        plain = bottleneck.encode(x)
        codes = plain
        if edits is not None:
            at = partial(self._at, x)
            # a code that is set stays where it is forbidden
            codes = edits.apply(edits.allowed(plain, x, at), at)
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


def _shared_out(x: Tensor, bottleneck: Bottleneck) -> Tensor:
    """As a bottleneck reads it, whose groups share out the vector, or that takes heads together."""
    config = bottleneck.config
    if x.shape[-1] == config.d_in:
        return x
    return x.reshape(*x.shape[:2], *([config.groups] if config.groups > 1 else []), config.d_in)


def home_of(model: Model, bottlenecks: Mapping[str, Bottleneck], site: str) -> tuple[str, int | None]:
    """The bottleneck that holds the codes of a site, and which of its groups."""
    place = resolve_site(model, site)
    by_site = {parse_site(name): name for name in bottlenecks}
    if place in by_site:
        name = by_site[place]
        if bottlenecks[name].config.groups > 1:
            if place.kind != "attn":
                raise InputError(f"site {site} has a codebook that shares out its vectors: its codes have no names")
            last = bottlenecks[name].config.groups - 1
            raise InputError(f"site {site} has a codebook per head: name one, {place}.h0 to {place}.h{last}")
        return name, None
    layer = Site("attn", place.layer)
    if place.head is not None and layer in by_site:
        name = by_site[layer]
        if bottlenecks[name].config.d_in == model.cfg.d_head:
            return name, place.head
    names = [*bottlenecks]
    sites = ", ".join(names) if len(names) <= 6 else f"{names[0]} … {names[-1]}"
    raise InputError(f"no codebook at {site}: there are some at {sites or 'no site'}")


def _check_fit(model: Model, place: Site, bottleneck: Bottleneck) -> None:
    if not isinstance(bottleneck, Bottleneck):
        raise InputError(f"{bottleneck!r:.60} at {place} is no bottleneck")
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
        raise InputError(f"site {place} has {has}: {groups} group(s) of size {d_in} do not fit")
    trained_at = bottleneck.trained_at
    # a hook has several names in a bridge
    if trained_at is not None and model.hook_dict.get(trained_at) is not model.hook_dict[place.hook]:
        warnings.warn(f"the bottleneck at {place} was made for {trained_at}, not {place.hook}", stacklevel=4)
    if bottleneck.device != (device := model_device(model)):
        raise InputError(f"the bottleneck for {place} is on {bottleneck.device}, the model on {device}: use .to")
