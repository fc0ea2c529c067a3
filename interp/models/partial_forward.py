"""Forward passes that start in the middle: blocks below a layer are skipped and its input is given.

An intervention at layer l leaves everything below l as it was, so half of a sweep's work on average can be saved.
The bridge hands the layer loop to the original model, which has no such argument. We let that model run as it does
(embedding, masks, position embeddings, final norm, soft-caps stay its own) but turn the ``forward`` of the blocks
below l into the identity, and set the residual stream at the input of block l. Bit-equal to the whole forward on
every family tested.

Forward passes that skip the first positions: their keys and values come from an earlier forward.

A clean and a corrupt prompt are equal up to their first different token, and attention is causal: whatever is patched
from one into the other, every activation before that token stays as it was. So a forward with a patch needs to run
the later positions only, attending to the keys and values that earlier ones have anyway. It is the KV cache of
generation, filled once and never written to again.

A forward in pieces, where every head may read its query, key and value from an input of its own.

Hooks can change what a layer's heads read, but not head by head where keys and values are shared (grouped-query
attention), and not without running the layer once per head. So attention is written out here, from the model's own
weights, norms and MLPs: q, k and v per *query* head, rotation, scores, causal softmax, W_O.

Known attention: scaled dot product, causal, with learned or rotary positions (half-split pairs, all or some of the
channels), grouped queries, biases, parallel (with one norm or two) or sequential blocks. Not known: norms after
attention or MLP (Gemma, OLMo 2), where heads do not add to the residual stream one by one, and factors there (Granite).
:meth:`Blockwise.check` compares with the model.
"""

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from interp.errors import InputError
from interp.models.hooks import has_hook, hooked, model_device, model_lock
from interp.models.residual_writes import ResidualWrites
from interp.models.sites import has_mlps

Into = Literal["q", "k", "v"]
QKV: tuple[Into, ...] = get_args(Into)
_TOLERANCE = {torch.float32: 1e-3}
_ROUGH_TOLERANCE = 0.05  # of the largest component: 16-bit numbers round at every sum


class Blockwise:
    """The blocks of a model, for prompts of one length; for ``purpose``, with which errors begin. Raises
    :class:`InputError` where heads add something else than ``z @ W_O`` to the residual stream
    (:class:`ResidualWrites`)."""

    def __init__(self, model: TransformerBridge, n_positions: int, purpose: str) -> None:
        self.model, self.purpose, self.n_positions = model, purpose, n_positions
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        ResidualWrites.of(model).require_plain(model, purpose)
        self.mlps = has_mlps(model)
        self.sequential = has_hook(model, "blocks.0.hook_resid_mid")
        """Whether an MLP reads the residual stream after its own layer's attention (else before: Pythia)."""
        self._weights: dict[tuple[int, Into], tuple[Tensor, Tensor]] = {}

    @cached_property
    def rotation(self) -> tuple[Float[Tensor, "pos channel"], Float[Tensor, "pos channel"]] | None:
        """Cosines and sines of rotary positions, the same in every layer; ``None`` without them."""
        names = {name: f"blocks.0.attn.hook_{name}" for name in ("cos", "sin")}
        if not all(has_hook(self.model, hook) for hook in names.values()):
            return None
        kept: dict[str, Tensor] = {}
        hooks = {hook: lambda x, name=name: kept.__setitem__(name, x[0].clone()) for name, hook in names.items()}
        tokens = torch.zeros(1, self.n_positions, dtype=torch.long, device=model_device(self.model))
        with torch.no_grad(), hooked(self.model, hooks):
            self.model(tokens)
        return (kept["cos"], kept["sin"]) if kept else None

    def weight(
        self, layer: int, into: Into
    ) -> tuple[Float[Tensor, "group d_model d_head"], Float[Tensor, "group d_head"]]:
        """W_Q, W_K or W_V of a layer with its bias, 0 if it has none: one group a query head, or a key-value head."""
        if (layer, into) not in self._weights:
            attn, name = self.model.blocks[layer].attn, into.upper()
            weight, bias = getattr(attn, f"W_{name}").detach().contiguous(), getattr(attn, f"b_{name}", None)
            self._weights[layer, into] = weight, weight.new_zeros(weight.shape[::2]) if bias is None else bias
        return self._weights[layer, into]

    def per_query_head(self, x: Tensor, dim: int) -> Tensor:
        """Repeat key-value heads along ``dim`` so that each query head has its own."""
        return x.repeat_interleave(self.n_heads // x.shape[dim], dim)

    def project(
        self, layer: int, into: Into, x: Float[Tensor, "*any pos d_model"]
    ) -> Float[Tensor, "*any pos head d_head"]:
        """The linear part of q, k or v (no bias), all heads reading the same normed input."""
        weight, _ = self.weight(layer, into)
        flat = weight.permute(1, 0, 2).reshape(weight.shape[1], -1)
        return self.per_query_head((x @ flat).unflatten(-1, (len(weight), -1)), -2)

    def bias(self, layer: int, into: Into) -> Float[Tensor, "head d_head"]:
        """What q, k or v has whatever is read, per query head."""
        return self.per_query_head(self.weight(layer, into)[1], 0)

    def read(
        self, layer: int, into: Into, inputs: Float[Tensor, "batch pos head d_model"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """q, k or v of every head from residual streams of its own, before the norm."""
        weight, _ = self.weight(layer, into)
        normed = self.model.blocks[layer].ln1(inputs.flatten(1, 2)).unflatten(1, inputs.shape[1:3])
        return torch.einsum("bphm,hmd->bphd", normed, self.per_query_head(weight, 0)) + self.bias(layer, into)

    def rotate(self, x: Float[Tensor, "*any pos head d_head"], first: int = 0) -> Float[Tensor, "*any pos head d_head"]:
        """Turn queries or keys, the first of which stands at position ``first``: linear in ``x``."""
        if self.rotation is None:
            return x
        cos, sin = (part[first:, None].to(x.dtype) for part in self.rotation)
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        low, high = turned.chunk(2, -1)
        return torch.cat([turned * cos + torch.cat([-high, low], -1) * sin, rest], -1)

    def scores(
        self, q: Float[Tensor, "*#any query head d_head"], k: Float[Tensor, "*#any key head d_head"]
    ) -> Float[Tensor, "*#any head query key"]:
        """Scaled products of rotated queries and keys, later keys not masked."""
        return torch.einsum("...qhd,...khd->...hqk", q, k) / q.shape[-1] ** 0.5

    def masked(self, scores: Float[Tensor, "*any query key"]) -> Float[Tensor, "*any query key"]:
        """−inf where the key is later than the query; the queries are the last positions."""
        queries, keys = scores.shape[-2:]
        later = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).triu(1 + keys - queries)
        return scores.masked_fill(later, float("-inf"))

    def mix(
        self, pattern: Float[Tensor, "*#any head query key"], v: Float[Tensor, "*#any key head d_head"]
    ) -> Float[Tensor, "*#any query head d_head"]:
        """z: values averaged by the pattern."""
        return torch.einsum("...hqk,...khd->...qhd", pattern, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "*any pos head d_head"]:
        """z of every head from its query, key and value, before rotation."""
        return self.mix(self.masked(self.scores(self.rotate(q), self.rotate(k))).softmax(-1), v)

    def write(self, layer: int, z: Float[Tensor, "*any pos head d_head"]) -> Float[Tensor, "*any pos head d_model"]:
        """What every head adds to the residual stream; the layer's bias is apart."""
        return torch.einsum("...hd,hdm->...hm", z, self.model.blocks[layer].attn.W_O)

    def mlp(self, layer: int, inputs: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Output of a layer's MLP from the residual stream before its norm."""
        return self.model.blocks[layer].mlp(mlp_norm(self.model, layer)(inputs))

    def check(self, ours: Float[Tensor, "*any"], models: Float[Tensor, "*any"]) -> None:
        """Raise :class:`InputError` when a forward in pieces does not come out where the model's own does."""
        error = (ours - models).abs().max() / models.abs().max()
        if not error <= _TOLERANCE.get(models.dtype, _ROUGH_TOLERANCE):
            raise InputError(
                f"{self.purpose} does not know this model's attention ({self.model.cfg.architecture}): written out, "
                f"its residual stream is {error.item():.1g} off; attribution and patching work on every model"
            )


def mlp_norm(model: TransformerBridge, layer: int) -> nn.Module:
    """The norm before a layer's MLP: that of its attention where a parallel block has one for both (Phi, GPT-J)."""
    block = model.blocks[layer]
    return block.ln2 if has_hook(model, f"blocks.{layer}.ln2.hook_in") else block.ln1


@torch.no_grad()
def require_whole_blocks(model: TransformerBridge, purpose: str) -> ResidualWrites:
    """How the model writes, if all its blocks and its logits can be computed from residual streams of one's own; else
    an :class:`InputError`."""
    residual_writes = ResidualWrites.of(model)
    residual_writes.require_plain(model, purpose)
    nothing = next(model.parameters()).new_zeros(1, 1, model.cfg.d_model)
    try:
        if has_mlps(model):
            model.blocks[0].mlp(nothing)
    except (RuntimeError, TypeError) as error:  # OPT: a part of the block; Bloom: it adds to the stream
        raise _apart(model, purpose, "the MLP by itself") from error
    if residual_writes.logit_scale is None:
        raise _apart(model, purpose, "logits with a soft-cap")
    return residual_writes


def _apart(model: TransformerBridge, purpose: str, part: str) -> InputError:
    return InputError(
        f"{purpose} cannot compute {part} of a model of the architecture {model.cfg.architecture}; "
        "attribution and patching work on every model"
    )


class _FrozenLayer(DynamicLayer):
    """Puts the prefix before the new keys and values and forgets the new ones; repeats it over copies of the batch."""

    keys: Tensor
    values: Tensor

    def __init__(self, filled: Any) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = filled.keys, filled.values, True
        self.rows: list[int] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        copies = len(key_states) // len(self.keys)

        def before(new: Tensor, kept: Tensor) -> Tensor:
            spread = kept.repeat(copies, 1, 1, 1) if self.rows is None else kept[self.rows]
            return torch.cat([spread, new], dim=-2)

        return before(key_states, self.keys), before(value_states, self.values)


def takes_prefix(model: TransformerBridge) -> bool:
    """Whether it can take keys and values from a cache: native bridges, that is planted models, cannot."""
    return isinstance(model.original_model, PreTrainedModel)


class Prefix:
    """The keys and values of the first ``length`` positions of a batch of prompts, at every layer; none for a model
    that cannot take them from a cache, which then runs every position as usual. ``run`` runs the tokens in place of the
    model, where something is to be read of that forward."""

    def __init__(
        self,
        model: TransformerBridge,
        tokens: Int[Tensor, "batch prefix"],
        run: Callable[[Tensor], object] | None = None,
    ) -> None:
        self.length = tokens.shape[1] if takes_prefix(model) else 0
        self._cache, self._frozen = DynamicCache(), list[_FrozenLayer]()
        if self.length or run is not None:
            with torch.no_grad(), self.before(model):
                (run or model)(tokens)
        if self.length:
            self._freeze(self._cache.layers)

    @classmethod
    def in_parts(
        cls, model: TransformerBridge, tokens: Int[Tensor, "batch prefix"], run: Callable[[Tensor], object], size: int
    ) -> "Prefix":
        """Of many prompts, ``size`` of which run at once."""
        if not tokens.shape[1]:
            return cls(model, tokens)
        whole, *parts = [cls(model, rows, run) for rows in tokens.split(size)]
        for layer, *others in zip(whole._frozen, *(part._frozen for part in parts), strict=True):
            layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
            layer.values = torch.cat([layer.values, *(other.values for other in others)])
        return whole

    def _freeze(self, layers: Sequence[Any]) -> None:
        self._frozen = [_FrozenLayer(layer) for layer in layers]
        self._cache.layers = [*self._frozen]

    def cut(self, length: int) -> "Prefix":
        """The first ``length`` positions of it; the tensors are shared."""
        part = copy.copy(self)
        part._cache, part.length = DynamicCache(), min(length, self.length)
        part._freeze(self._frozen)
        for layer in part._frozen:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
        return part

    @contextlib.contextmanager
    def before(self, model: TransformerBridge, rows: list[int] | None = None) -> Iterator[None]:
        """Within the body a forward of tokens is read as coming after the prefix.

        The batch may be several copies of the prefix's, one below the other, or ``rows`` of it. Hooks see the later
        positions only, numbered from 0. Enter it after :func:`~interp.models.partial_forward.starting_at`, which may
        have to try the model once. Bit-close, not bit-equal, to the whole forward: matrix products of other shapes
        round otherwise.
        """
        if not self.length:
            yield
            return

        def hand_over(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return args, {**kwargs, "past_key_values": self._cache}

        with model_lock(model):
            for layer in self._frozen:
                layer.rows = rows
            with model.original_model.register_forward_pre_hook(hand_over, with_kwargs=True):
                yield


_returns_tuple: "weakref.WeakKeyDictionary[TransformerBridge, bool]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def starting_at(model: TransformerBridge, layer: int, resid_pre: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Within the body a forward of tokens of this batch and length begins at ``layer`` with ``resid_pre``."""
    with model_lock(model):
        wrap = _blocks_return_tuples(model)
        skipped = list(model.blocks)[:layer]

        def identity(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
            return (hidden_states,) if wrap else hidden_states

        try:
            for block in skipped:
                # past nn.Module's and the bridge's own __setattr__, which would register it on the wrapped component
                object.__setattr__(block, "forward", identity)
            with hooked(model, {f"blocks.{layer}.hook_resid_pre": lambda _: resid_pre}):
                yield
        finally:
            for block in skipped:
                block.__dict__.pop("forward", None)


class _FirstBlockError(Exception):
    """Ends a forward behind the first block; says whether that returned a tuple."""


def _blocks_return_tuples(model: TransformerBridge) -> bool:
    """Whether the model's layer loop expects ``(hidden_states, …)`` from a block rather than a tensor."""
    if model not in _returns_tuple:

        def give_up(_module: Any, _inputs: Any, output: Any) -> None:
            raise _FirstBlockError(isinstance(output, tuple))

        # no further: hooks of later layers would take it for a forward of theirs
        with model.blocks[0].register_forward_hook(give_up), torch.no_grad():
            try:
                model(torch.zeros(1, 2, dtype=torch.long, device=model_device(model)))
            except _FirstBlockError as answer:
                _returns_tuple[model] = answer.args[0]
    return _returns_tuple[model]
