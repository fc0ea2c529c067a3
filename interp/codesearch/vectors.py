"""What a code's vector says by itself: its neighbours in the book, and what it would add to the logits."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.codesearch.index import CodeIndex
from interp.models import Model, model_device, parse_site
from interp.models.final_norm import FinalNorm


@dataclass(frozen=True)
class Neighbour:
    """Another code of the same book by the cosine of their vectors, as the book compares vectors."""

    code: int
    cosine: float
    count: int


@dataclass(frozen=True)
class LogitLens:
    """What the code's vector would add to the logits by itself, (text, logit) of the tokens, furthest first."""

    up: list[tuple[str, float]]
    down: list[tuple[str, float]]


def nearest_codes(index: CodeIndex, book: str, code: int, n: int = 10) -> list[Neighbour]:
    """Codes of the same book by cosine.

    Raises:
        InputError: no such book or code, or the index's codebooks are not there.
    """
    begin = index.layout.code(book, code) - code
    vectors = _vectors(index, book)
    cosine = torch.nn.functional.cosine_similarity(vectors, vectors[code], dim=-1).numpy()
    cosine[code] = -np.inf
    return [
        Neighbour(int(i), float(cosine[i]), int(index.counts[begin + i]))
        for i in np.argsort(-cosine, kind="stable")[: min(n, len(cosine) - 1)]
    ]


@torch.no_grad()
def logit_lens(index: CodeIndex, model: Model, book: str, code: int, n: int = 10) -> LogitLens:
    """The code's vector through W_O (heads), the final norm and the unembedding, as if it were all of the residual.

    What the blocks between make of it is left out: early layers' codes often say little here. A code of nothing, which
    training puts into books of several codes, writes no token.

    Raises:
        InputError: the codebooks are not there, or it is another model.
    """
    index.check_model(model)
    vector = written_vector(index, model, book, code)
    if not vector.any():
        return LogitLens([], [])
    final = FinalNorm.of(model)
    # the norm itself gives the scale: beside little that is written its epsilon counts
    normed = model.ln_final(vector[None, None].to(model.cfg.dtype))[0, 0].float()
    logits = (final.norm.direction(vector) * final.norm.factor(vector, normed) @ final.unembedding).cpu()
    text = index.corpus.token_text
    n = min(n, len(logits))
    up, down = logits.topk(n), (-logits).topk(n)
    return LogitLens(
        [(text(i), v) for v, i in zip(up.values.tolist(), up.indices.tolist(), strict=True)],
        [(text(i), -v) for v, i in zip(down.values.tolist(), down.indices.tolist(), strict=True)],
    )


@torch.no_grad()
def written_vector(index: CodeIndex, model: Model, book: str, code: int) -> Float[torch.Tensor, " d_model"]:
    """What the code stands for in the residual stream."""
    found = index.books[index.layout.number(book)]
    index.layout.code(book, code)
    config = index.codebooks()[found.site].config
    vector = index.codebooks()[found.site].codes[found.vectors, code].detach().float()
    site, width = parse_site(found.site), model.cfg.d_model
    vector = vector.to(model_device(model))
    if site.kind == "attn":
        weights = model.blocks[site.layer].attn.W_O.detach().float()  # [head, d_head, d_model]
        if config.d_in == model.cfg.d_head:
            return vector @ weights[found.group if site.head is None else site.head]
        return vector @ weights.flatten(0, 1)
    whole = vector.new_zeros(width)
    whole[found.group * config.d_in : (found.group + 1) * config.d_in] = vector
    return whole


def _vectors(index: CodeIndex, book: str) -> Float[torch.Tensor, "code d_in"]:
    found = index.books[index.layout.number(book)]
    dictionary = index.codebooks()[found.site]
    return dictionary.comparable(dictionary.codes.detach().float())[found.vectors].cpu()
