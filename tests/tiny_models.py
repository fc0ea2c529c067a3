"""Tiny random models of every family, written in Hugging Face's format: real architectures, built in
milliseconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

FAMILIES = ("gpt2", "pythia", "llama", "qwen2", "gemma2", "gemma3")
OTHERS = ("olmo2", "granite", "phi", "opt", "bloom")
"""Families that are wired otherwise: see docs/models.md, on which of them what is refused."""

_TEXT = [
    "When Mary and John went to the store, John gave a drink to Mary.",
    "The war lasted from the year 1732 to the year 1745.",
    "def load(self, files, code): :param files: the files to read :param code: a number",
    "0 1 2 3 4 5 6 7 8 9 ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz",
]


def make_tiny(family: str, folder: Path) -> Path:
    """Write a random two-layer model of ``family`` and a byte-level BPE tokenizer into ``folder``."""
    # base models such as GPT-2 have no padding token, chat models do
    tokenizer = make_tokenizer(pad="<pad>" if family in ("llama", "qwen2") else None)
    config = make_config(family, len(tokenizer), tokenizer.eos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_config(family: str, d_vocab: int, eos: int | None) -> PreTrainedConfig:
    # weights ten times the usual scale: at the usual one a random model repeats its last token for ever
    ids = {"vocab_size": d_vocab, "bos_token_id": eos, "eos_token_id": eos, "initializer_range": 0.2}
    if family == "gpt2":
        return GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=128, **ids)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"max_position_embeddings": 128}
    if family == "opt":
        return OPTConfig(ffn_dim=48, word_embed_proj_dim=24, init_std=0.2, pad_token_id=1, **shape, **ids)
    if family == "bloom":
        return BloomConfig(hidden_size=24, n_layer=2, n_head=4, **ids)
    if family == "phi":
        # of 6 channels an even number turns
        return PhiConfig(pad_token_id=1, partial_rotary_factor=2 / 3, **shape, **ids)
    if family == "pythia":
        return GPTNeoXConfig(use_parallel_residual=True, rotary_pct=0.5, hidden_act="gelu", **shape, **ids)
    shape |= {"num_key_value_heads": 2}
    if family == "llama":
        return LlamaConfig(tie_word_embeddings=True, **shape, **ids)
    if family == "qwen2":
        return Qwen2Config(**shape, **ids)
    if family == "olmo2":
        return Olmo2Config(pad_token_id=1, **shape, **ids)
    if family == "granite":
        factors = {"residual_multiplier": 0.5, "embedding_multiplier": 12.0, "logits_scaling": 8.0}
        return GraniteConfig(attention_multiplier=6**-0.5, pad_token_id=1, **factors, **shape, **ids)
    # untied: Gemma scales its embeddings up so far that tied ones make a random model repeat its input
    ids["tie_word_embeddings"] = False
    if family == "gemma2":
        return Gemma2Config(head_dim=8, query_pre_attn_scalar=8, sliding_window=8, **shape, **ids)
    if family == "gemma3":
        return Gemma3TextConfig(head_dim=8, query_pre_attn_scalar=8, sliding_window=8, **shape, **ids)
    raise ValueError(f"unknown family {family!r}")


def make_tokenizer(pad: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text round-trips, ``<|endoftext|>`` is both BOS and EOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", *([pad] if pad else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[0], pad_token=pad
    )
