"""Contexts of the corpus that share codes with a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Shaped

from interp.codesearch.index import CodeIndex
from interp.codesearch.token_codes import read_codes
from interp.errors import InputError
from interp.models import Model, model_device
from interp.models.limits import check_tokens
from interp.text.special import first_token, token_ids

RAREST = 96  # codes of a prompt whose tokens are candidates: the rarest of them, which say most


@dataclass(frozen=True)
class Similar:
    """A token of the corpus whose codes are like a prompt's."""

    token: int
    score: float  # idf of the codes it shares, of the idf of all the prompt's codes
    shared: int  # how many codes it shares


def prompt_codes(
    index: CodeIndex, model: Model, prompt: str | Sequence[int], *, position: int = -1
) -> dict[str, Int[np.ndarray, " k"]]:
    """The codes of one token of a prompt, by book, read as the index was; ids and positions are without BOS."""
    ids = token_ids(model.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
    if not -len(ids) <= position < len(ids):
        raise InputError(f"position {position}: the prompt has {len(ids)} tokens")
    return {name: codes[position] for name, codes in all_prompt_codes(index, model, ids).items()}


def all_prompt_codes(index: CodeIndex, model: Model, ids: Sequence[int]) -> dict[str, Int[np.ndarray, "pos k"]]:
    """As :func:`prompt_codes`, of every token of a prompt, which is given as token ids without BOS.

    :class:`InputError` for another model than the index's, more tokens than it reads, or one that is none of its own.
    """
    index.check_model(model)
    device = model_device(model)
    books = {site: book.to(device) for site, book in index.codebooks().items()}
    begin = first_token(model.tokenizer)
    tokens = [*([] if begin is None else [begin]), *ids]
    if len(tokens) > model.cfg.n_ctx:
        raise InputError(f"a prompt of {len(tokens)} tokens: the model reads at most {model.cfg.n_ctx}")
    check_tokens(model, tokens, "the prompt")
    read = read_codes(model, books, torch.tensor(tokens), error_term=bool(index.manifest["error_term"]))
    return {name: codes.ids[begin is not None :] for name, codes in read.items()}


def search_similar(index: CodeIndex, codes: Mapping[str, Shaped[np.ndarray, " k"]], n: int = 20) -> list[Similar]:
    """The tokens of the corpus that share most with some codes, each weighted by log(tokens / tokens with the code).

    Candidates are all tokens with one of the :data:`RAREST` rarest codes; these are compared by all codes. A token
    that shares only frequent codes is not found. ``codes`` are as of :func:`prompt_codes`; negative ids are none.
    """
    wanted = [(book, int(c)) for book, ids in codes.items() for c in dict.fromkeys(ids.tolist()) if c >= 0]
    counts = np.array([index.count(book, code) for book, code in wanted])
    idf = np.log(index.n_tokens / np.maximum(counts, 1))
    rarest = [i for i in np.argsort(counts, kind="stable") if counts[i] > 0][:RAREST]
    score = np.zeros(index.n_tokens, np.float32)
    for i in rarest:
        score[index.positions(*wanted[i])] += idf[i]
    n_candidates = min(max(50 * n, 1000), int((score > 0).sum()))
    if not n_candidates:
        return []
    candidates = np.sort(np.argpartition(-score, n_candidates - 1)[:n_candidates])
    total, shared = np.zeros(len(candidates)), np.zeros(len(candidates), np.int64)
    for book in dict.fromkeys(book for book, _ in wanted):
        number = index.layout.number(book)
        weight = np.full(index.books[number].n_codes + 1, np.nan)
        for (other, code), value in zip(wanted, idf, strict=True):
            if other == book:
                weight[code] = value
        of_slot = weight[index.ids.rows(number, candidates)]
        total += np.nansum(of_slot, 1)
        shared += (~np.isnan(of_slot)).sum(1)
    order = np.lexsort((candidates, -total))[:n]
    whole = max(float(idf.sum()), 1e-12)
    return [Similar(int(candidates[i]), float(total[i]) / whole, int(shared[i])) for i in order]
