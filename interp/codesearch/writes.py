"""What codes write: the tokens that a code's vector raises through W_O, the final norm and the unembedding.

What all codes of a book have in common says nothing about one of them: their mean, each as often as it is on, is taken
off. The blocks between are left out, so that early layers' codes say little here. Whether it holds is measured on text:
does the code raise the token that comes next?
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.codesearch.index import CodeIndex
from interp.models import Model, model_device, parse_site
from interp.models.residual_writes import FinalNorm, LinearNorm, ResidualWrites

NAMED = 4
"""Tokens that are named of a code."""
LEAST_GAIN, ERRORS = 0.1, 3.0
"""What a code writes is told from so many standard deviations, and standard errors, on: else the text does not bear it
out."""


@torch.no_grad()
def written_vectors(index: CodeIndex, model: Model, book: str) -> Float[Tensor, "code d_model"]:
    """What the codes of a book stand for in the residual stream."""
    found = index.books[index.layout.number(book)]
    dictionary = index.codebooks()[found.site]
    config, site, width = dictionary.config, parse_site(found.site), model.cfg.d_model
    vectors = dictionary.codes[found.vectors].detach().float().to(model_device(model))
    if site.kind == "attn":
        weights = model.blocks[site.layer].attn.W_O.detach().float()  # [head, d_head, d_model]
        head = found.group if site.head is None else site.head
        own = vectors @ (weights[head] if config.d_in == model.cfg.d_head else weights.flatten(0, 1))
        behind = ResidualWrites.of(model).norm
        if behind is None:
            return own
        norm = LinearNorm.of(getattr(model.blocks[site.layer], behind), width, weights)
        return norm.direction(own)  # but for its scale, which the final norm takes away
    whole = vectors.new_zeros(len(vectors), width)
    whole[:, found.group * config.d_in : (found.group + 1) * config.d_in] = vectors
    return whole


@torch.no_grad()
def writes(
    index: CodeIndex,
    model: Model,
    book: str,
    ids: Shaped[np.ndarray, "token k"],
    half: Int[np.ndarray, " token"],
) -> tuple[list[str], Float[np.ndarray, " code"]]:
    """Of every code the tokens that it raises most, or lowers most where it lowers what comes next; and by how many
    standard deviations it raises the tokens that come next on the second half more than all tokens of the text. No
    tokens are named where that is less than :data:`LEAST_GAIN`, or than :data:`ERRORS` of its standard errors.
    """
    corpus, vectors = index.corpus, written_vectors(index, model, book)
    n_codes, final = len(vectors), FinalNorm.of(model)
    count = torch.from_numpy(np.bincount(ids.ravel(), minlength=n_codes + 1)[:n_codes]).float().to(vectors)
    vectors = vectors - (count @ vectors) / count.sum().clamp(min=1)
    logits = (final.norm.direction(vectors) @ final.unembedding).cpu()
    tokens, n_vocab = np.asarray(corpus.tokens).astype(np.int64), len(corpus.special)
    logits = logits[:, :n_vocab]
    at = np.flatnonzero((half == 1) & (np.arange(len(tokens)) % corpus.context < corpus.context - 1))
    after = tokens[at + 1]
    share = torch.from_numpy(np.bincount(after, minlength=n_vocab) / max(len(after), 1)).float()
    mean = logits @ share
    spread = (logits.square() @ share - mean.square()).clamp(min=1e-12).sqrt()
    code = ids[at].ravel().astype(np.int64)
    following, on = np.repeat(after, ids.shape[1])[code < n_codes], code[code < n_codes]
    fired = np.bincount(on, minlength=n_codes)
    raised = np.bincount(on, logits.numpy()[on, following], n_codes) / np.maximum(fired, 1)
    gain = np.where(fired > 0, (raised - mean.numpy()) / spread.numpy(), 0)
    told = np.abs(gain) >= np.maximum(LEAST_GAIN, ERRORS / np.sqrt(np.maximum(fired, 1)))
    # only tokens that the text has: rare ones are the largest by chance
    there = torch.from_numpy(corpus.token_counts[:n_vocab] == 0)
    up = logits.masked_fill(there, -torch.inf).topk(min(NAMED, n_vocab)).indices.tolist()
    down = logits.masked_fill(there, torch.inf).topk(min(NAMED, n_vocab), largest=False).indices.tolist()
    texts = []
    for number in range(n_codes):
        if not told[number]:
            texts.append("")
            continue
        named, verb = (down[number], "lowers") if gain[number] < 0 else (up[number], "raises")
        texts.append(f"{verb} " + " ".join(f"“{corpus.token_text(i)}”" for i in named))
    return texts, gain.astype(np.float32)
