"""Gates: edits that act only where something holds that the model has read.

====================  ===============================================================================
written               holds at a position where
====================  ===============================================================================
``a12.h3=417``        the code is among those of the site there; of several with commas, any of them
``token:REGEX``       the token that is read there matches, anywhere in it, with its space in front
====================  ===============================================================================

A code is read in the forward that is edited, before anything is edited at its hook. What can be known is what passes
there: edits of earlier layers and positions have acted by then, those of its own hook and of later ones have not. So
a gate has to be at the hook of what it gates or at an earlier one. Regular expressions are Rust's, through Polars:
linear in the text, without look-around.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import InputError

TOKEN, LABEL = "token:", "label:"
"""What a gate begins with. Of a label the code is looked up (:func:`interp.steering.request.gate_of`)."""


@dataclass(frozen=True, eq=False)
class Gate:
    """A gate as it is written, and its sites and codes: none for one on tokens."""

    text: str
    codes: tuple[tuple[str, int], ...] = ()
    _known: dict[int, bool] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.codes:
            self._matches([""])

    def of_tokens(self, tokenizer: Any, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Where the pattern matches."""
        ids, index = tokens.unique(return_inverse=True)
        new = [i for i in ids.tolist() if i not in self._known]
        # behind itself, so that no tokenizer drops the space in front
        texts = [_decoded(tokenizer, [i, i])[len(_decoded(tokenizer, [i])) :] for i in new]
        self._known.update(zip(new, self._matches(texts), strict=True))
        return torch.tensor([self._known[i] for i in ids.tolist()], device=tokens.device)[index]

    def _matches(self, texts: Sequence[str]) -> list[bool]:
        import polars as pl

        pattern = self.text.removeprefix(TOKEN)
        if not pattern:
            raise InputError(f"gate {self.text!r}: write a regular expression behind {TOKEN}")
        try:
            return pl.Series(texts, dtype=pl.String).str.contains(pattern).to_list()
        except pl.exceptions.PolarsError as error:
            raise InputError(f"gate {self.text!r}: {complaint(error)}") from None


def complaint(error: Exception) -> str:
    """What the engine of regular expressions says of one, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if line.startswith("error:")), lines[0])
    return line.removeprefix("error:").strip()


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
