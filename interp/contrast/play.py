"""Play with an explanation: nodes of A write something else, one after the other, and both answers move.

====================  =========================================================
edit                  what the node then writes
====================  =========================================================
``a23.h3@15=b``       what it wrote after B
``a23.h3@15=0``       nothing
``a23.h3@15=c417``    the vector of code 417 of the codebooks that come with it
====================  =========================================================

15 is the position in A, counted with BOS as in :class:`~interp.contrast.explanation.WhyNode`. ``m12@15=0`` is an MLP.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Codes
from interp.bottlenecks.dictionary import Dictionary
from interp.contrast.explanation import Why
from interp.contrast.prompts import Tokens, align, read_prompt, token_text
from interp.contrast.reading import shipped_codebooks
from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.interventions.patch import Patch
from interp.models import Model, Site, parse_site, resolve_site
from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.text.special import in_chat_template

MOST = 64  # edits in a row
_FORM = re.compile(r"(?P<site>[^@=]+)@(?P<position>\d{1,6})=(?P<to>b|0|c(?P<code>\d{1,9}))")


@dataclass(frozen=True)
class NodeEdit:
    """What one node writes instead: ``str(edit)`` gives back the notation."""

    site: Site
    position: int  # in A
    to: Literal["b", "0"] | int  # what it wrote after B, nothing, or a code

    def __str__(self) -> str:
        return f"{self.site}@{self.position}=" + (f"c{self.to}" if isinstance(self.to, int) else self.to)


@dataclass(frozen=True)
class EditOutcome:
    """What A says with all edits up to this one."""

    edit: str | None  # the last one, `None` before the first
    # answer, instead: probabilities of both answers
    answer: float
    instead: float
    difference: float  # logit of the first less that of the second
    # top, p_top: the likeliest token, and its probability
    top: str
    p_top: float


def parse_edit(text: str) -> NodeEdit:
    """Read the notation; :class:`InputError` if it is none."""
    match = _FORM.fullmatch(str(text).strip())
    if match is None:
        raise InputError(f"edit {text!r:.60}: write a23.h3@15=b (as after B), =0 (nothing) or =c417 (a code)")
    site = parse_site(match["site"])
    if site.kind == "resid" or (site.kind == "attn" and site.head is None):
        raise InputError(f"edit {text!r:.60}: {site} is no node, a head such as a5.h3 or an MLP such as m5 is")
    code = match["code"]
    return NodeEdit(site, int(match["position"]), int(code) if code else "b" if match["to"] == "b" else "0")


def replay(model: Model, explanation: Why, edits: Sequence[str | NodeEdit]) -> list[EditOutcome]:
    """What A says before any edit, and after each further one.

    Of several edits of one node the last counts. :class:`InputError`: an edit that cannot be, or an explanation of
    another model.

    >>> outcomes = replay(model, explanation, ["a23.h3@15=b", "a29.h1@15=0"])
    >>> [round(outcome.answer, 2) for outcome in outcomes]
    [0.79, 0.01, 0.01]
    """
    return Play(model, explanation).replay(edits)


class Play:
    """Both prompts of an explanation, run once, for :func:`replay` again and again. ``first``: of A's positions, the
    first that can get B's value. ``books``: the codebooks that come with the package for the model."""

    @torch.no_grad()
    def __init__(self, model: Model, explanation: Why) -> None:
        self.model, (a, b) = model, read_tokens(model, explanation)
        self.first, self.length, self.shift = align(a, b)[0], len(a), len(b) - len(a)
        self.books = [books for books, _ in shipped_codebooks(model)]
        self._answers = [explanation.answers[name]["id"] for name in ("answer", "instead")]
        answer, instead = self._answers
        rows = [PromptPair("", "", ids, ids, (answer,), (instead,)) for ids in (a, b)]
        pairs = PromptPairs(rows, task="why", metric="logit_diff", counterfactual="b", seed=0, bos=True)
        self._run = CleanRun.of(model, pairs, mlps=True)

    @torch.no_grad()
    def replay(self, edits: Sequence[str | NodeEdit]) -> list[EditOutcome]:
        if len(edits) > MOST:
            raise InputError(f"{len(edits)} edits: at most {MOST} follow each other")
        parsed = [edit if isinstance(edit, NodeEdit) else parse_edit(edit) for edit in edits]
        for edit in parsed:
            self._check(edit)
        logits = self._logits(parsed)
        outcomes = list[EditOutcome]()
        for name, row, p in zip([None, *map(str, parsed)], logits, logits.softmax(-1), strict=True):
            first, second = self._answers
            top = int(row.argmax())
            answers = float(p[first]), float(p[second]), float(row[first] - row[second])
            outcomes.append(EditOutcome(name, *answers, token_text(self.model, top), float(p[top])))
        return outcomes

    def _logits(self, edits: Sequence[NodeEdit]) -> Float[Tensor, "edit d_vocab"]:
        """After A, the clean run's pair 0, before and after each edit."""
        n, cfg = len(edits) + 1, self.model.cfg
        last, end, row = Site("attn", cfg.n_layers - 1, 0), self.length - 1, np.arange(n)
        written = [
            (last, end, self._at(last, 0, end), row == 0),  # before the edits A's value stays
            *((x.site, x.position, self._value(x), row > i) for i, x in enumerate(edits)),
        ]
        patches = [
            Patch(site, value[None].expand(n, -1), np.full(n, position), rows)
            for site, position, value, rows in written
        ]
        logits = torch.zeros(n, cfg.d_vocab)
        for rows, part in self._run.patched(np.zeros(n, dtype=int), patches, every_token=True):
            logits[torch.from_numpy(rows)] = part.float().cpu()
        return logits

    def _value(self, edit: NodeEdit) -> Float[Tensor, " d"]:
        if edit.to == "b":
            return self._at(edit.site, 1, edit.position + self.shift)
        value = self._at(edit.site, 0, edit.position)
        book = self.book(edit.site)
        if book is None or not isinstance(edit.to, int):
            return torch.zeros_like(value)
        ids = torch.tensor([edit.to], device=value.device)
        return book.decode(Codes(ids, torch.ones_like(ids).float())).to(value)

    def _at(self, site: Site, prompt: int, position: int) -> Float[Tensor, " d"]:
        return self._run.at(site, np.array([prompt]), np.array([position]), corrupt=False)[0]

    def book(self, site: Site) -> Dictionary | None:
        """The codebook of a node; it is stored for all heads of the layer, or for the MLP."""
        stored = str(Site(site.kind, site.layer))
        return next((books[str(site)] for books in self.books if stored in books), None)

    def _check(self, edit: NodeEdit) -> None:
        """Raise :class:`InputError` where there is no such node, or nothing to put there."""
        try:
            resolve_site(self.model, str(edit.site))
        except InputError as error:
            raise InputError(f"edit {edit}: {error}") from None
        if edit.site.kind == "mlp" and not self._run.mlps:
            raise InputError(f"edit {edit}: this model has attention only")
        if edit.position >= self.length:
            raise InputError(f"edit {edit}: A has positions 0 to {self.length - 1}")
        if edit.to == "b" and edit.position < self.first:
            raise InputError(
                f"edit {edit}: B has nothing else there; the prompts are compared from position {self.first} on"
            )
        if isinstance(edit.to, int):
            book = self.book(edit.site)
            if book is None:
                raise InputError(f"edit {edit}: no codebook for {edit.site} comes with the package")
            if edit.to >= book.config.n_codes:
                raise InputError(f"edit {edit}: the codes of {edit.site} are c0 to c{book.config.n_codes - 1}")


def read_tokens(model: Model, explanation: Why) -> tuple[Tokens, Tokens]:
    """Both prompts in tokens, with what both answers begin with. :class:`InputError`: the model reads the prompts in
    other tokens than the explanation's."""
    encoder, prompts = PromptEncoder(model.tokenizer, bos=True), []
    for name, text, tokens in (("A", explanation.a, explanation.tokens), ("B", explanation.b, explanation.tokens_b)):
        ids = read_prompt(model, encoder, text, f"prompt {name}", chat=explanation.chat)
        before = in_chat_template(model.tokenizer, text) if explanation.chat else text
        ids += encoder.continuation(before, "".join(tokens[len(ids) :])) if len(ids) < len(tokens) else ()
        if [token_text(model, token) for token in ids] != tokens:
            raise InputError(f"this model reads prompt {name} in other tokens: open the explanation with its own")
        prompts.append(ids)
    return prompts[0], prompts[1]
