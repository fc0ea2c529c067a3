"""A small GPT-NeoX in plain torch, for training from scratch on a processor.

Same parameters, names and arithmetic as Hugging Face's ``GPTNeoXForCausalLM`` (Black et al. 2022, arXiv 2204.06745;
parallel residual, rotary positions on a quarter of each head), so that :meth:`NeoX.save` gives a folder that
``load_model`` reads and every other tool works on. What is different is speed: fused attention, no hook points, and in
layer 0, whose MLP and projections see nothing but the token, one row per word of the vocabulary and not per position.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import InputError

At = Callable[[str, Tensor], Tensor]
"""Takes a site (``a2`` z of a layer's heads, [batch, pos, head, d_head]; ``m2`` an MLP's output, [batch, pos, d_model])
and its activation; returns what takes its place."""


@dataclass(frozen=True)
class NeoXShape:
    """Sizes as published for TokFSM (Tamkin et al. 2023, arXiv 2310.17230)."""

    d_vocab: int = 11
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 512
    n_ctx: int = 128

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def sites(self) -> list[str]:
        return [f"{kind}{layer}" for layer in range(self.n_layers) for kind in "am"]


@dataclass
class Cache:
    """Keys and values of the positions read so far, by layer, [batch, head, pos, d_head]."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 2)
            self.values[layer] = torch.cat([self.values[layer], value], 2)
        return self.keys[layer], self.values[layer]


class NeoX(nn.Module):
    """
    Args:
        seed: of the weights: normal with deviation 0.02, biases 0, as Hugging Face draws them.
    """

    def __init__(self, shape: NeoXShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embed_in = nn.Embedding(shape.d_vocab, shape.d_model)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.n_layers))
        self.final_layer_norm = nn.LayerNorm(shape.d_model)
        self.embed_out = nn.Linear(shape.d_model, shape.d_vocab, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.weight.normal_(std=0.02, generator=generator)
                    if getattr(module, "bias", None) is not None:
                        module.bias.zero_()
        self.register_buffer("rotary", _rotary(shape), persistent=False)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], at: At | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits; with a cache ``tokens`` follow on those that it has read, one at a time."""
        begin = 0 if cache is None else cache.length
        if begin and tokens.shape[1] > 1:
            raise InputError(f"{tokens.shape[1]} tokens behind {begin} in a cache: give one at a time")
        turn = self.rotary[:, begin : begin + tokens.shape[1]]
        x = F.embedding(tokens, self.embed_in.weight)
        for number, layer in enumerate(self.layers):
            rows = self.embed_in.weight if number == 0 else x
            qkv, out = layer.project(rows), layer.mlp(layer.post_attention_layernorm(rows))
            if number == 0:
                qkv, out = F.embedding(tokens, qkv), F.embedding(tokens, out)
            z = layer.attend(qkv, turn, cache, number)
            if at is not None:
                z, out = at(f"a{number}", z), at(f"m{number}", out)
            x = x + layer.attention["dense"](z.flatten(2)) + out
        return self.embed_out(self.final_layer_norm(x))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, *, bos: int, at: At | None = None) -> Int[Tensor, "n n_ctx"]:
        """Sequences of the whole context from BOS at temperature 1; BOS itself is not drawn again."""
        tokens, cache = torch.full((n, 1), bos), Cache()
        for _ in range(self.shape.n_ctx - 1):
            logits = self(tokens[:, -1:].to(self.rotary.device), at, cache)[:, -1].float().cpu()
            logits[:, bos] = float("-inf")
            new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, new], 1)
        return tokens

    def save(self, folder: Path, tokenizer) -> None:
        """Write the model and its tokenizer in Hugging Face's format."""
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        shape = self.shape
        config = GPTNeoXConfig(
            vocab_size=shape.d_vocab,
            hidden_size=shape.d_model,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            intermediate_size=shape.d_mlp,
            max_position_embeddings=shape.n_ctx,
            hidden_act="gelu",
            use_parallel_residual=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = GPTNeoXForCausalLM(config)
        state = self.state_dict()
        # what Hugging Face calls the unembedding differs between its versions
        model.get_output_embeddings().load_state_dict({"weight": state.pop("embed_out.weight")})
        model.gpt_neox.load_state_dict(state)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


class _MLP(nn.Module):
    def __init__(self, shape: NeoXShape) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(shape.d_model, shape.d_mlp)
        self.act = nn.GELU()
        self.dense_4h_to_h = nn.Linear(shape.d_mlp, shape.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(x)))


class _Layer(nn.Module):
    def __init__(self, shape: NeoXShape) -> None:
        super().__init__()
        self.shape = shape
        self.input_layernorm = nn.LayerNorm(shape.d_model)
        self.post_attention_layernorm = nn.LayerNorm(shape.d_model)
        self.attention = nn.ModuleDict(
            {
                "query_key_value": nn.Linear(shape.d_model, 3 * shape.d_model),
                "dense": nn.Linear(shape.d_model, shape.d_model),
            }
        )
        self.mlp = _MLP(shape)

    def project(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch qkv"]:
        return self.attention["query_key_value"](self.input_layernorm(x))

    def attend(
        self, qkv: Float[Tensor, "batch pos qkv"], turn: Tensor, cache: Cache | None, number: int
    ) -> Float[Tensor, "batch pos head d_head"]:
        qkv = qkv.unflatten(-1, (self.shape.n_heads, -1)).transpose(1, 2)
        query, key, value = qkv.chunk(3, -1)
        query, key = _turned(query, turn), _turned(key, turn)
        if cache is not None:
            key, value = cache.extend(number, key, value)
        # after the first read one position at a time follows, which sees all that is in the cache
        z = F.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
        return z.transpose(1, 2)


def _rotary(shape: NeoXShape) -> Float[Tensor, "2 pos d_rotary"]:
    """Cosines and sines, for rotate-half."""
    size = shape.d_head // 4
    frequencies = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angles = (torch.arange(shape.n_ctx)[:, None] * frequencies).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def _turned(x: Float[Tensor, "batch head pos d_head"], turn: Float[Tensor, "2 pos d_rotary"]) -> Tensor:
    size = turn.shape[-1]
    part, rest = x[..., :size], x[..., size:]
    swapped = torch.cat([-part[..., size // 2 :], part[..., : size // 2]], -1)
    return torch.cat([part * turn[0] + swapped * turn[1], rest], -1)
