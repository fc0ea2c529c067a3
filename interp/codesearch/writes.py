"""What codes write: the tokens that a code's vector raises through W_O, the final norm and the unembedding.

What all codes of a book have in common says nothing about one of them: their mean, each as often as it is on, is taken
off. The blocks between are left out, so that early layers' codes say little here. Whether it holds is measured on text:
does the code raise the token that comes next, more than another code of the book would that is exchanged for it?
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.codesearch.index import CodeIndex
from interp.codesearch.patterns import quoted
from interp.models import Model, model_device, parse_site
from interp.models.residual_writes import FinalNorm, LinearNorm, ResidualWrites

NAMED = 3  # tokens that are named of a code
LEAST, EXCHANGES, LEVEL = 20, 4, 0.95
"""What a code writes is told where it is on at so many tokens, and gains more than such a share of codes do where so
many times every code is exchanged for another: else the text does not bear it out."""


@torch.no_grad()
def written_vectors(index: CodeIndex, model: Model, book: str) -> Float[Tensor, "code d_model"]:
    """What the codes of a book stand for in the residual stream."""
    place = index.books[index.layout.number(book)]
    config = index.codebooks()[place.site].config
    site, width = parse_site(place.site), model.cfg.d_model
    vectors = index.vectors(book).to(model_device(model))
    if site.kind == "attn":
        weights = model.blocks[site.layer].attn.W_O.detach().float()  # [head, d_head, d_model]
        head = place.group if site.head is None else site.head
        vectors = vectors @ (weights[head] if config.d_in == model.cfg.d_head else weights.flatten(0, 1))
        behind = ResidualWrites.of(model).norm
        if behind is None:
            return vectors
        norm = LinearNorm.of(getattr(model.blocks[site.layer], behind), width, weights)
        return norm.direction(vectors)  # but for its scale, which the final norm takes away
    whole = vectors.new_zeros(len(vectors), width)
    whole[:, place.group * config.d_in : (place.group + 1) * config.d_in] = vectors
    return whole


@torch.no_grad()
def written_logits(
    index: CodeIndex, model: Model, book: str, counts: Shaped[np.ndarray, " code"]
) -> tuple[Int[np.ndarray, " token"], Float[np.ndarray, " code token"]]:
    """The tokens that the text has, of all others rare ones would be the largest by chance; and by how much each code
    raises each, beyond what all codes of the book do, each as often as it is on."""
    final, vectors = FinalNorm.of(model), written_vectors(index, model, book)
    vocabulary = np.unique(np.asarray(index.corpus.tokens).astype(np.int64))
    weights = torch.from_numpy(counts.astype(np.float32)).to(vectors)
    vectors = vectors - (weights @ vectors) / weights.sum().clamp(min=1)
    logits = final.norm.direction(vectors) @ final.unembedding[:, vocabulary]
    return vocabulary, logits.cpu().numpy()


@torch.no_grad()
def writes(
    index: CodeIndex, model: Model, book: str, ids: Shaped[np.ndarray, "token k"], half: Int[np.ndarray, " token"]
) -> tuple[list[str], Float[np.ndarray, " code"]]:
    """Of every code the tokens that it raises most, or lowers most where it lowers what comes next; and by how many
    standard deviations it raises the tokens that come next on the second half more than all tokens of the text. No
    tokens are named where the text does not bear it out, see :data:`LEVEL`.
    """
    corpus, n_codes = index.corpus, index.books[index.layout.number(book)].n_codes
    tokens = np.asarray(corpus.tokens).astype(np.int64)
    counts = np.bincount(ids.ravel(), minlength=n_codes + 1)[:n_codes]
    vocabulary, of_codes = written_logits(index, model, book, counts)
    numbers, logits = np.searchsorted(vocabulary, tokens), torch.from_numpy(of_codes)
    at = np.flatnonzero((half == 1) & (np.arange(len(tokens)) % corpus.context < corpus.context - 1))
    after, code = numbers[at + 1], ids[at].ravel().astype(np.int64)
    share = torch.from_numpy(np.bincount(after, minlength=len(vocabulary)) / max(len(after), 1)).float()
    mean = logits @ share
    spread = (logits.square() @ share - mean.square()).clamp(min=1e-12).sqrt()
    is_code = code < n_codes
    following, code = np.repeat(after, ids.shape[1])[is_code], code[is_code]
    firings = np.bincount(code, minlength=n_codes)

    def gains(exchanged: np.ndarray) -> np.ndarray:
        """Of every code, where another stands in its place."""
        raised = np.bincount(code, of_codes[exchanged[code], following], n_codes) / np.maximum(firings, 1)
        return np.where(firings > 0, (raised - mean.numpy()[exchanged]) / spread.numpy()[exchanged], 0)

    gain, enough, rng = gains(np.arange(n_codes)), firings >= LEAST, np.random.default_rng(0)
    chance = np.abs([gains(rng.permutation(n_codes))[enough] for _ in range(EXCHANGES)])
    holds = enough & (np.abs(gain) > (np.quantile(chance, LEVEL) if enough.any() else np.inf))
    named = min(NAMED, len(vocabulary))
    up, down = (vocabulary[logits.topk(named, largest=largest).indices.numpy()] for largest in (True, False))

    def words(number: int) -> str:
        verb, furthest = ("lowers", down) if gain[number] < 0 else ("raises", up)
        return f"{verb} {quoted([corpus.token_text(token) for token in furthest[number].tolist()])}"

    return [words(i) if holds[i] else "" for i in range(n_codes)], gain.astype(np.float32)
