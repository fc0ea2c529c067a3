"""Which special tokens stand around a text."""

from transformers import PreTrainedTokenizerBase


def first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What a block begins with: BOS, or EOS where there is no BOS (as TransformerLens has it)."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def between(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What stands between two documents: EOS, or BOS where there is no EOS."""
    return tokenizer.bos_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def opened(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text behind what a block begins with."""
    begin = first_token(tokenizer)
    head = [] if begin is None else [begin]
    return head + list(tokenizer(text, add_special_tokens=False).input_ids)
