"""Documents as blocks of equal length: BOS, then a stretch of the documents joined by EOS.

The stream of documents is cut wherever a block is full, so every token but the last few is used and no position is
padding. A block's first tokens may therefore continue a sentence that they do not see.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import InputError, check_choice
from interp.models import Model
from interp.models.limits import check_tokens
from interp.progress import Stage, silent
from interp.text.sources import Document, TextSource, open_sources
from interp.text.special import between, first_token, token_ids

HELDOUT_SHARE = 4  # one document in so many is held out
_FRUITLESS = 4096  # an endless source that brings nothing new in so many documents has nothing more to say

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class TextBlocks:
    # every block begins with BOS (if the tokenizer has one), and none holds padding
    tokens: Int[Tensor, "block pos"]
    spec: str
    split: Split
    seed: int  # of the order of documents, and of the samples of `self`
    n_documents: int
    # which of the sources each block is from; `None` if there is one
    sources: Int[Tensor, " block"] | None = None

    @property
    def n_tokens(self) -> int:
        return self.tokens.numel()

    def fingerprint(self) -> str:
        return hashlib.sha256(self.tokens.to(torch.int32).numpy().tobytes()).hexdigest()[:16]


def load_text(
    spec: "str | TextBlocks",
    model: Model,
    *,
    n_tokens: int,
    context: int = 64,
    split: str = "train",
    seed: int = 0,
    stage: Stage = silent,
) -> TextBlocks:
    """Blocks of ``context`` tokens, as many as fit into ``n_tokens``, BOS included.

    A document is held out or not by a hash of its text, whatever the seed, the context and the other sources, so what
    one call held out never trains in another. Documents that occur twice count once. Several sources share the tokens
    equally, and their blocks alternate. Blocks in place of a ``spec`` (:mod:`interp.text.sources`) are returned.
    """
    if isinstance(spec, TextBlocks):
        return spec
    check_choice("split ", Split, split)
    half = cast(Split, split)
    if not 2 <= context <= model.cfg.n_ctx:
        raise InputError(f"context {context}: it must be 2 to {model.cfg.n_ctx}, the model's longest")
    if model.tokenizer is None:
        raise InputError("this model has no tokenizer: it cannot read text")
    sources = open_sources(spec)
    total = n_tokens // context
    if total < len(sources):
        raise InputError(f"{n_tokens} tokens: at least {len(sources)} blocks of {context} are needed")
    wanted = [total // len(sources) + (i < total % len(sources)) for i in range(len(sources))]
    parts, n_documents = [], 0
    seen: set[bytes] = set()
    for source, n_blocks in zip(sources, wanted, strict=True):
        blocks, documents = _blocks(source, model, n_blocks, context, half, seed, stage, seen)
        parts.append(blocks)
        n_documents += documents
    order = sorted((i / len(part), s, i) for s, part in enumerate(parts) for i in range(len(part)))
    tokens = torch.stack([parts[s][i] for _, s, i in order])
    whose = torch.tensor([s for _, s, _ in order]) if len(sources) > 1 else None
    spec = "+".join(source.spec for source in sources)
    return TextBlocks(tokens, spec, half, seed, n_documents, whose)


def is_heldout(document: Document) -> bool:
    """Whether a document is held out: by its words alone, so that spacing makes no second document."""
    return int.from_bytes(_digest(document)[:8], "big") % HELDOUT_SHARE == 0


def _blocks(
    source: TextSource,
    model: Model,
    n_blocks: int,
    context: int,
    split: Split,
    seed: int,
    stage: Stage,
    seen: set[bytes],
) -> tuple[Int[Tensor, "block pos"], int]:
    """Blocks of one source, and how many documents they are from; ``seen`` are documents of the sources before."""
    begin, join = first_token(model.tokenizer), between(model.tokenizer)
    head = [] if begin is None else [begin]
    body = context - len(head)
    stream: list[int] = []
    documents, needed = 0, n_blocks * body
    once = " (documents that a source before it has too count once)" if seen else ""
    # an endless source writes its documents, and tells of that itself
    reading = silent if source.endless else stage
    with reading(f"reading {source.spec}", needed) as done:
        for document in _ordered(source, model, split, seed, stage, seen):
            before = len(stream)
            stream += token_ids(model.tokenizer, document) if isinstance(document, str) else document
            stream += [] if join is None else [join]
            documents += 1
            done(min(len(stream), needed) - before)
            if len(stream) >= needed:
                break
    if documents == 0:
        raise InputError(f"text {source.spec!r}: no document for the split {split!r}{once}")
    if len(stream) < n_blocks * body:
        raise InputError(
            f"text {source.spec!r} has {len(stream)} tokens in its split {split!r}, "
            f"{n_blocks * body} are needed for {n_blocks} blocks of {context}: ask for fewer, or add a source{once}"
        )
    rows = torch.tensor(stream[: n_blocks * body]).reshape(n_blocks, body)
    tokens = torch.cat([torch.tensor(head, dtype=torch.long).expand(n_blocks, -1), rows], 1)
    check_tokens(model, (int(tokens.min()), int(tokens.max())), f"text {source.spec!r}")
    return tokens, documents


def _ordered(
    source: TextSource, model: Model, split: Split, seed: int, stage: Stage, seen: set[bytes]
) -> Iterator[Document]:
    """Documents of the split, each once; those of a finite source in an order drawn from the seed."""
    documents = source.documents(model, seed=seed, stage=stage)
    if not source.endless:
        by_digest = sorted(documents, key=lambda text: hashlib.sha256(b"%d:" % seed + _digest(text)).digest())
        documents = iter(by_digest)
    fruitless = 0
    for document in documents:
        digest = _digest(document)
        wanted = (document.strip() if isinstance(document, str) else document) and digest not in seen
        if wanted and is_heldout(document) == (split == "heldout"):
            seen.add(digest)
            fruitless = 0
            yield document
        elif (fruitless := fruitless + 1) >= _FRUITLESS and source.endless:
            return


def _digest(document: Document) -> bytes:
    text = " ".join(document.split()) if isinstance(document, str) else repr(document)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
