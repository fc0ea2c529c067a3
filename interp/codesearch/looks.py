"""Where heads look: at every token the two positions with the largest share of attention · |value|.

Attention alone says little where the value is small, as at the first token; the value's length weighs it (Kobayashi et
al. 2020, "Attention is not only a weight").
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.codesearch.layout import Book, IdFile, Layout

LOOKS = "looks.npy"
MOST = 2  # positions kept of a token
PARTS = 16  # a share is kept to one of so many parts


def looks_layout(layout: Layout, context: int) -> Layout | None:
    """Of the file of looks beside one of ids: a book for every head that has one there; None where no head has one."""
    names = [book.name for book in layout.books if ".h" in book.name]
    heads = [(name, *name.split(".h")) for name in names]
    books = tuple(Book(name, site, int(head), 0, context * PARTS, MOST) for name, site, head in heads)
    return Layout(books, layout.n_tokens) if books else None


def largest_looks(
    pattern: Float[Tensor, "block head query key"], value: Float[Tensor, "block key kv d"]
) -> Int[np.ndarray, "block_query head place"]:
    """Position and share as one number, position · :data:`PARTS` + part; −1 where nothing is looked at."""
    size = value.float().norm(dim=-1).mT  # [block, kv, key]
    size = size.repeat_interleave(pattern.shape[1] // size.shape[1], 1)
    weight = pattern.float() * size[:, :, None]
    share, place = (weight / weight.sum(-1, keepdim=True)).topk(min(MOST, weight.shape[-1]), -1)
    number = place * PARTS + (share * PARTS).int().clamp(max=PARTS - 1)
    number = torch.where(share > 0, number, -1).permute(0, 2, 1, 3).flatten(0, 1)
    return torch.nn.functional.pad(number, (0, MOST - number.shape[-1]), value=-1).cpu().numpy()


class LooksReader:
    """Hooks that keep the largest looks of the last forward, by layer."""

    def __init__(self, layout: Layout) -> None:
        self.seen: dict[int, np.ndarray] = {}
        self.layout, self._values = layout, dict[int, Tensor]()
        self.layers = sorted({int(book.site[1:]) for book in layout.books})
        self.hooks: Mapping[str, Callable[[Tensor], None]] = {
            f"blocks.{layer}.attn.{name}": partial(read, layer)
            for layer in self.layers
            for name, read in (("hook_v", self._values.__setitem__), ("hook_pattern", self._read))
        }

    def _read(self, layer: int, pattern: Tensor) -> None:
        self.seen[layer] = largest_looks(pattern, self._values.pop(layer))

    def store(self, file: IdFile, start: int) -> None:
        """Write what the last forward had; ``start`` is its first token."""
        for number, book in enumerate(self.layout.books):
            file.write(number, start, self.seen[int(book.site[1:])][:, book.group])


def looked_at(
    file: IdFile, number: int, context: int
) -> tuple[Int[np.ndarray, "token place"], Float[np.ndarray, "token place"]]:
    """Of one head at every token: the number of the token looked at among all tokens, −1 for none, and its share."""
    place, part = np.divmod(file.tokens(number).astype(np.int64), PARTS)
    looks = place < context
    block = np.arange(len(place))[:, None] // context * context
    return np.where(looks, block + place, -1), np.where(looks, (part + 0.5) / PARTS, 0)
