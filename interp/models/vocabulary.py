"""Which token ids a model has an embedding of; another is refused in one line instead of an index error in a forward.

Models may have more embeddings than their tokenizer has tokens. The other way about, a few added tokens without an
embedding occur in published models and are no harm unless they are met; an ordinary token without one means that the
tokenizer is of another model.
"""

from collections.abc import Iterable, Sequence

from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from interp.errors import InputError


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, d_vocab: int, name: str) -> None:
    """Raise :class:`InputError` for a tokenizer of another model: ordinary tokens of it have no embedding."""
    if len(tokenizer) <= d_vocab:
        return
    added = tokenizer.added_tokens_decoder
    foreign = {i: token for token, i in tokenizer.get_vocab().items() if i >= d_vocab and i not in added}
    if foreign:
        first = min(foreign)
        raise InputError(
            f"{name}: its tokenizer is of another model: the token {foreign[first]!r} of id {first} and "
            f"{len(foreign) - 1} more have no embedding, as the model's vocabulary is of {d_vocab} tokens"
        )


def check_tokens(model: TransformerBridge, ids: Iterable[int], what: str) -> None:
    """Raise :class:`InputError` for the first id that the model has no embedding of.

    Args:
        what: whose token it is, for the message.
    """
    d_vocab = model.cfg.d_vocab
    outside = next((i for i in ids if not 0 <= i < d_vocab), None)
    if outside is not None:
        raise InputError(
            f"{what} has the token {_text(model, int(outside))}of id {outside}: the model's vocabulary is of "
            f"{d_vocab} tokens, ids 0 to {d_vocab - 1}"
        )


def check_texts(model: TransformerBridge, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """:func:`check_tokens` of texts and their token ids."""
    for text, row in zip(texts, rows, strict=True):
        check_tokens(model, row, f"the text {text[:40]!r}")


def _text(model: TransformerBridge, token: int) -> str:
    known = None if model.tokenizer is None or token < 0 else model.tokenizer.convert_ids_to_tokens(token)
    return "" if known is None else f"{known!r} "
