"""From text in pieces to token ids and the positions of roles, for any Hugging Face tokenizer."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

from interp.errors import InputError
from interp.prompts.pairs import PromptPair, Value

Piece = tuple[str, str | None]  # a stretch of text and the role, if any, of its last token


class PromptEncoder:
    """One tokenizer's view of prompts, slow or fast: no offset mapping is needed.

    Short pieces are encoded once and remembered, so a prompt costs one call of the tokenizer.
    """

    def __init__(self, tokenizer: Any, bos: bool) -> None:
        self.tokenizer = tokenizer
        bos_id = getattr(tokenizer, "bos_token_id", None)
        self.bos: tuple[int, ...] = (bos_id,) if bos and bos_id is not None else ()
        """What stands before every prompt: BOS, or nothing."""
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of ``text`` alone, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def continuation(self, prefix: str, text: str) -> tuple[int, ...]:
        """Token ids that ``text`` adds after ``prefix``.

        Where the two fuse into one token across the border, ``text`` is encoded alone: in GPT-2 `` 13`` +
        ``00`` would be the single token `` 1300``, but what may follow the token `` 13`` is ``00``.
        """
        head = self._remember(prefix)
        whole = self.encode(prefix + text)
        return whole[len(head) :] if whole[: len(head)] == head else self._remember(text)

    def words(self, words: Iterable[str]) -> dict[str, int]:
        """Those words that are one token after a space, with that token's id; not those the tokenizer lacks."""
        ids = {word: self.continuation("the", " " + word) for word in words}
        unknown = (getattr(self.tokenizer, "unk_token_id", None),)
        return {word: tokens[0] for word, tokens in ids.items() if len(tokens) == 1 and tokens != unknown}

    def place(self, pieces: Sequence[Piece]) -> tuple[tuple[int, ...], dict[str, int]]:
        """Ids of the joined pieces (with BOS) and the position of every role's last token, ``END`` included. Raises
        :class:`InputError` where the tokenizer joins a role's piece and what follows it in one token."""
        text = "".join(piece for piece, _ in pieces)
        ids = self.encode(text)
        parts = [self._remember(piece) for piece, _ in pieces]
        if tuple(chain.from_iterable(parts)) == ids:
            ends = list(accumulate(len(part) for part in parts))
        else:
            prefixes = accumulate(piece for piece, _ in pieces)
            ends = [
                self._border(ids, prefix, text) if role else 0
                for (_, role), prefix in zip(pieces, prefixes, strict=True)
            ]
        last = len(self.bos) - 1
        positions = {role: end + last for (_, role), end in zip(pieces, ends, strict=True) if role}
        return self.bos + ids, {**positions, "END": len(ids) + last}

    def ends(self, text: str, piece: str, occurrence: int, source: str) -> int:
        """Position, without BOS, of the last token of a piece of ``text``; occurrences count from 1. Raises
        :class:`InputError` for fewer, and where the tokenizer joins the piece and what follows it in one token."""
        end = 0
        for n_before in range(occurrence):
            begin = text.find(piece, end)
            if begin < 0:
                raise InputError(f"{source}: {piece!r} stands {n_before} times in {text!r}, not {occurrence}")
            end = begin + len(piece)
        return self._border(self._remember(text), text[:end], text) - 1

    def pair(
        self,
        clean: Sequence[Piece],
        corrupt: Sequence[Piece],
        *,
        answers: Iterable[int],
        wrong_answers: Iterable[int],
        template: str = "",
        variables: tuple[dict[str, Value], dict[str, Value]] | None = None,
    ) -> PromptPair:
        """The pair of two prompts in pieces, with the roles of ``clean`` and the variables of both. Raises
        :class:`InputError` where the tokenizer gives the two prompts different lengths, or a role different
        positions."""
        clean_tokens, positions = self.place(clean)
        corrupt_tokens, corrupt_positions = self.place(corrupt)
        clean_text, corrupt_text = ("".join(piece for piece, _ in side) for side in (clean, corrupt))
        moved = any(positions.get(role, position) != position for role, position in corrupt_positions.items())
        if len(clean_tokens) != len(corrupt_tokens) or moved:
            raise InputError(
                f"this tokenizer gives the clean prompt {clean_text!r} {len(clean_tokens)} tokens and its "
                f"corrupt partner {corrupt_text!r} {len(corrupt_tokens)}: choose another counterfactual"
            )
        return PromptPair(
            clean=clean_text,
            corrupt=corrupt_text,
            clean_tokens=clean_tokens,
            corrupt_tokens=corrupt_tokens,
            answers=tuple(answers),
            wrong_answers=tuple(wrong_answers),
            positions=positions,
            template=template,
            variables={} if variables is None else dict(zip(("clean", "corrupt"), variables, strict=True)),
        )

    def _remember(self, text: str) -> tuple[int, ...]:
        if text not in self._known:
            self._known[text] = self.encode(text)
        return self._known[text]

    def _border(self, ids: tuple[int, ...], prefix: str, text: str) -> int:
        head = self.encode(prefix)
        if ids[: len(head)] != head:
            raise InputError(
                f"this tokenizer has no token border after {prefix[-24:]!r} in the prompt {text!r}, "
                "so the role there has no position"
            )
        return len(head)
