"""Texts through a model once: the codes at every site, and how the texts' likelihood depends on each site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.bottlenecks.codes import Codes
from interp.models import Model, hooked, resolve_site
from interp.progress import Stage, silent
from interp.tasks.errors import InputError
from interp.text.special import first_token, opened

BATCH_SIZE = 32


@dataclass(frozen=True)
class TokenizedTexts:
    """
    Attributes:
        tokens: BOS, a text, and padding on the right, which no earlier position sees.
        counted: where a token of the text stands: not BOS, not padding.
    """

    tokens: Int[Tensor, "text pos"]
    counted: Bool[Tensor, "text pos"]


@dataclass(frozen=True)
class SiteReading:
    """
    Attributes:
        ids: with one group where the site has no groups.
        pull: the gradient of Σ weight · log-likelihood, in nats per token, towards the site's vector, summed over
            positions.
        pulled: how far the strongest codes that are there go along it: Σ ⟨code, gradient⟩.
    """

    ids: Int[Tensor, "text pos group k"]
    pull: Float[Tensor, "group d_in"]
    pulled: Float[Tensor, " group"]


def tokenize(model: Model, texts: Sequence[str]) -> TokenizedTexts:
    """Texts as one padded tensor.

    Raises:
        InputError: a text that is empty or longer than the model's context, or a model without a tokenizer.
    """
    if model.tokenizer is None:
        raise InputError("this model has no tokenizer: it cannot read text")
    begin = first_token(model.tokenizer)
    rows = [opened(model.tokenizer, text) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < 2:
            raise InputError(f"text {text!r} is empty: each text needs a token to read")
        if len(row) > model.cfg.n_ctx:
            raise InputError(
                f"a text of {len(row)} tokens ({text[:30]!r} …): the model reads {model.cfg.n_ctx}"
            )
    longest = max(map(len, rows))
    padding = begin if begin is not None else 0
    tokens = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    place = torch.arange(longest)
    return TokenizedTexts(tokens, (place >= (begin is not None)) & (place < lengths))


def read_texts(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    texts: TokenizedTexts,
    weights: Float[Tensor, " text"],
    *,
    stage: Stage = silent,
) -> dict[str, SiteReading]:
    """Codes at every site, and the pull of the texts by their weights, in one pass; only those of weight 0 go without
    a backward pass."""
    device = next(model.parameters()).device
    places = {name: resolve_site(model, name) for name in codebooks}
    seen: dict[str, Tensor] = {}

    def keep(hook: str, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.retain_grad()
        seen[hook] = x
        return x

    functions = {place.hook: partial(keep, place.hook) for place in places.values()}
    begin = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_()}
    weighted, others = weights.nonzero()[:, 0], (weights == 0).nonzero()[:, 0]
    parts: dict[str, list[SiteReading]] = {name: [] for name in codebooks}
    with stage("reading texts", len(weights)) as done:
        for rows in (*weighted.split(BATCH_SIZE), *others.split(BATCH_SIZE)):
            if len(rows) == 0:
                continue
            pulls = bool(weights[rows[0]])
            width = int(texts.counted[rows].any(0).nonzero().max()) + 1
            tokens, counted = (part[rows, :width].to(device) for part in (texts.tokens, texts.counted))
            with torch.set_grad_enabled(pulls), hooked(model, (begin if pulls else {}) | functions):
                logits = model(tokens)
                if pulls:
                    (weights[rows].to(device) * _likelihood(logits, tokens, counted)).sum().backward()
            for name, book in codebooks.items():
                read = _read(book, places[name].head, seen[places[name].hook], counted)
                missing = texts.tokens.shape[1] - width
                ids = torch.nn.functional.pad(read.ids, (0, 0, 0, 0, 0, missing))
                parts[name].append(SiteReading(ids, read.pull, read.pulled))
            seen.clear()
            done(len(rows))
    back = torch.argsort(torch.cat([weighted, others]))
    return {name: _joined(some, back) for name, some in parts.items()}


def _likelihood(
    logits: Float[Tensor, "text pos vocab"],
    tokens: Int[Tensor, "text pos"],
    counted: Bool[Tensor, "text pos"],
) -> Float[Tensor, " text"]:
    """Of each text, in nats per token."""
    each = logits[:, :-1].float().log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return (each * counted[:, 1:]).sum(-1) / counted.sum(-1)


@torch.no_grad()
def _read(book: Bottleneck, head: int | None, x: Tensor, counted: Bool[Tensor, "text pos"]) -> SiteReading:
    def grouped(vectors: Tensor) -> Float[Tensor, "text pos group d_in"]:
        vectors = vectors.detach() if head is None else vectors.detach()[:, :, head]
        return vectors.reshape(*vectors.shape[:2], -1, book.config.d_in)

    rows = grouped(x)
    # codes of a single group come without the axis
    codes = book.encode(rows if rows.shape[2] > 1 else rows[:, :, 0])
    ids = (codes.ids if rows.shape[2] > 1 else codes.ids[:, :, None]).cpu()
    if x.grad is None:
        return SiteReading(ids, torch.zeros(rows.shape[2:]), torch.zeros(rows.shape[2]))
    gradient = grouped(x.grad).float() * counted[..., None, None]
    strongest = book.decode(Codes(codes.ids[..., :1], codes.values[..., :1])).reshape(rows.shape).float()
    return SiteReading(ids, gradient.sum((0, 1)).cpu(), (gradient * strongest).sum((0, 1, 3)).cpu())


def _joined(parts: list[SiteReading], back: Int[Tensor, " text"]) -> SiteReading:
    return SiteReading(
        torch.cat([part.ids for part in parts])[back],
        torch.stack([part.pull for part in parts]).sum(0),
        torch.stack([part.pulled for part in parts]).sum(0),
    )
