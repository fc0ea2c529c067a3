"""The codes of a typed text, for the page *Live text*."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from interp.app import engine
from interp.app.widgets.code_names import code_pages, steering_by
from interp.app.widgets.codebook_picker import changed
from interp.app.widgets.tokens import pieces
from interp.bottlenecks.store import Codebooks
from interp.codesearch import Labels
from interp.codesearch.layout import can_be_edited
from interp.codesearch.token_codes import TokenCodes, read_codes
from interp.errors import InputError
from interp.steering.continuations import encode_prompts
from interp.text.special import first_token

MOST = 128  # tokens that can still be overlooked, and that a browser draws at once


@dataclass(frozen=True)
class TextReading:
    pieces: list[str]  # the text's tokens as text, BOS left out
    codes: dict[str, TokenCodes]  # by site, heads apart, at the same tokens


def read(folder: str | Path, books: Codebooks, text: str) -> TextReading:
    """One forward pass, holding the lock; none if this tab has read the same text last."""
    key = folder, changed(folder), engine.model_name(), text
    return engine.asked_last("reading", key, lambda: _read(books, text))


def _read(books: Codebooks, text: str) -> TextReading:
    if not text.strip():
        raise InputError("no text: write some")
    ids = encode_prompts(engine.model(), [text])[0]
    first = int(first_token(engine.model().tokenizer) is not None)
    if len(ids) - first > MOST:
        raise InputError(f"a text of {len(ids) - first} tokens: this page shows at most {MOST}")
    with engine.running() as model:
        codes = {
            site: TokenCodes(*(part[first:] for part in (whole.ids, whole.similarity, whole.margin)))
            for site, whole in read_codes(model, books, torch.tensor(ids)).items()
        }
    return TextReading(pieces(model.tokenizer, ids[first:]), codes)


def clearest_site(sites: Mapping[str, Sequence[str]], reading: TextReading, labels: Labels | None) -> int:
    """Which of the single sites says most about this text: where its codes are many, and their labels hold best."""
    if labels is None:
        return 0

    def clear(names: Sequence[str]) -> float:
        if len(names) > 1:
            return -1.0
        code_labels = (labels.of(names[0], code) for code in set(reading.codes[names[0]].ids[:, 0].tolist()))
        return sum(label.f1 for label in code_labels if label is not None and label.named)

    values = [clear(names) for names in sites.values()]
    return values.index(max(values))


def coarse_ids(groups: Int[np.ndarray, " code"], ids: Sequence[int]) -> list[int]:
    """The coarse code of each; −1 stays."""
    return [int(groups[code]) if code >= 0 else -1 for code in ids]


def codes_at(
    reading: TextReading, token: int, books: str, label: Callable[[str, int], dict[str, str]]
) -> list[dict[str, str | int | float | None]]:
    """The codes of one token at all sites, strongest first within a site, with the addresses of what is known of them
    and of steering by them."""
    page = code_pages(books)
    return [
        {
            "site": site,
            "slot": slot + 1,
            "code": int(codes.ids[token, slot]),
            **label(site, int(codes.ids[token, slot])),
            "similarity": float(codes.similarity[token, slot]),
            "margin": float(codes.margin[token, slot]),
            "page": page(site, int(codes.ids[token, slot])),
            "steer": steering_by(f"{site}={codes.ids[token, slot]}", books) if can_be_edited(site) else None,
        }
        for site, codes in reading.codes.items()
        for slot in range(codes.ids.shape[1])
        if codes.ids[token, slot] >= 0
    ]


def shared(reading: TextReading, token: int, other: int) -> dict[str, float]:
    """By site, the share of one token's codes that another token has too; sites at which it has none left out."""
    shares = {}
    for site, codes in reading.codes.items():
        codes_here, codes_there = (set(codes.ids[i][codes.ids[i] >= 0].tolist()) for i in (token, other))
        if codes_here:
            shares[site] = len(codes_here & codes_there) / len(codes_here)
    return shares


def heads_of(sites: Iterable[str]) -> dict[str, list[str]]:
    """What can be shown at once: each site, and before the heads of a layer all of them together."""
    choices: dict[str, list[str]] = {}
    for site in sites:
        layer, dot, _ = site.partition(".")
        if dot:
            choices.setdefault(layer, []).append(site)
        choices[site] = [site]
    return choices
