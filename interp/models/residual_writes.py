"""How a model's heads reach its residual stream, and that stream the logits: measured, not read from names.

What attention adds to the stream is the sum of its heads' ``z @ W_O`` and its bias in most families. In some a norm
stands between (Gemma, GLM-4; OLMo 2 and 3, where transformer-lens 3.9 says ``ln1``), in some a factor (Granite), and
after the unembedding too (Granite). So one forward of a few tokens, once a model, compares what a layer adds with
what each of these would make of its heads.

LayerNorm and RMSNorm are linear once their scale is held: y = gain · (x − mean(x) if centred) / scale(x) + bias. So
what one component writes can be read off behind them, in logits behind the final one. Families differ in gain (Gemma
adds 1), bias and centring, so these are measured by probing the module rather than read from attribute names.
"""

import weakref
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from interp.errors import InputError
from interp.models.hooks import HookFunction, has_hook, hooked, hooks_aside, model_device, model_lock
from interp.models.sites import has_mlps


@dataclass(frozen=True)
class LinearNorm:
    """y = gain · (x − mean(x) if centred) / scale(x) + bias; ``scaled`` is false where there is no norm."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    scaled: bool

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, d_model: int, like: Tensor) -> "LinearNorm":
        """Probe a norm module; ``like`` gives device and dtype."""
        # mean 0 and root-mean-square 1 (odd widths: nearly), so that the norm leaves it as it is
        probe = torch.ones(d_model, device=like.device, dtype=like.dtype)
        probe[1::2] = -1.0

        def norm(x: Tensor) -> Tensor:
            return module(x[None, None]).squeeze(0).squeeze(0).float()

        def same(x: Tensor, y: Tensor) -> bool:
            return torch.allclose(x, y, atol=0.01 * y.abs().max().item())

        bias = norm(torch.zeros_like(probe))
        plain = norm(probe) - bias
        centred = same(norm(probe + 3.0) - bias, plain)
        scaled = same(norm(2.0 * probe) - bias, plain)
        return cls(plain * probe.float(), bias, centred, scaled)

    def direction(self, part: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """gain · (part − mean(part) if centred): the norm's numerator, linear in the part."""
        return (part - part.mean(-1, keepdim=True) if self.centred else part) * self.gain

    def factor(
        self, inputs: Float[Tensor, "*any d_model"], outputs: Float[Tensor, "*any d_model"]
    ) -> Float[Tensor, "*any 1"]:
        """1 / scale at each position, read off the norm's own input and output, so that its epsilon is included."""
        whole = self.direction(inputs)
        power = whole.pow(2).sum(-1, keepdim=True).clamp_min(torch.finfo(whole.dtype).tiny)
        return ((outputs - self.bias) * whole).sum(-1, keepdim=True) / power


TOKENS = 6
SMALL = 0.05
"""Root mean square that the residual stream is brought to before every layer: what a layer adds, which norms make
independent of that, does not drown in the rounding of a large stream."""
_NO_SUM = "its heads, biases and MLPs do not add up to its residual stream"
_NORMS = ("ln1_post", "ln1")
"""What the bridge calls a norm after attention; transformer-lens 3.9 says ``ln1`` where there is none before."""
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUGH_TOLERANCE = 0.05  # of the largest number: 16-bit numbers round at every sum
_known: "weakref.WeakKeyDictionary[TransformerBridge, ResidualWrites]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class ResidualWrites:
    known: bool  # whether heads, bias and MLP add up to what a layer adds, by ``norm`` and ``scale``
    norm: str | None = None  # the module of a block that stands between its heads and the residual stream, if one does
    scale: float = 1.0  # what attention's output is multiplied with on its way there
    # what the unembedding's output is multiplied with; ``None`` where logits are no multiple of it (soft-caps)
    logit_scale: float | None = 1.0
    norm_first: bool = True  # whether a norm stands before attention: ``ln1``, which queries, keys and values read

    @classmethod
    def of(cls, model: TransformerBridge) -> "ResidualWrites":
        """Measured the first time, by a forward without whatever is attached."""
        if (known := _known.get(model)) is not None:
            return known  # without waiting for a text that another thread writes
        with model_lock(model):
            if model not in _known:
                with hooks_aside(model):
                    _known[model] = _measured(model)
            return _known[model]

    @property
    def plain(self) -> bool:
        """Whether heads add ``z @ W_O`` to the residual stream."""
        return self.known and self.norm is None and self.scale == 1

    @property
    def has_edges(self) -> bool:
        """Whether edges can be attributed: what heads write is known, and queries, keys, values read a norm."""
        return self.known and self.norm_first

    def require_additive(self, model: TransformerBridge, purpose: str) -> None:
        """Raise :class:`InputError` where heads do not add to the residual stream one by one, up to a factor."""
        if not self.known or self.norm is not None:
            raise self._not_additive(model, purpose)

    def require_plain(self, model: TransformerBridge, purpose: str) -> None:
        """Raise :class:`InputError` where heads add anything but ``z @ W_O`` to the residual stream."""
        if not self.plain:
            raise self._not_additive(model, purpose)

    def require_edges(self, model: TransformerBridge) -> None:
        """Raise :class:`InputError` where edges cannot be attributed."""
        if not self.has_edges:
            raise InputError(
                f"edges cannot be attributed in a model of the architecture {model.cfg.architecture}: "
                f"{self.why_no_edges}; codes, attribution and patching score its heads"
            )

    @property
    def why_no_edges(self) -> str:
        return "its attention reads the residual stream without a norm" if self.known else _NO_SUM

    def logits(
        self, model: TransformerBridge, normed: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits from what the final norm gives; soft-caps aside."""
        logits = model.unembed(normed)
        return logits if self.logit_scale in (None, 1.0) else self.logit_scale * logits

    def output_weight(self, model: TransformerBridge, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What turns z into what each head adds, or into what enters the norm after attention."""
        weight = model.blocks[layer].attn.W_O.detach()
        return weight if self.scale == 1 else self.scale * weight

    @torch.no_grad()
    def added_by_heads(
        self, model: TransformerBridge, layer: int, z: Float[Tensor, "batch head d_head"]
    ) -> Float[Tensor, "batch head d_model"]:
        """What each head adds to the residual stream, without the output bias, in float32. Where a norm stands after
        attention it is the head's share: the norm's scale is that of all heads together."""
        if not self.known:
            raise self._not_additive(model, "what a head adds to the logits")
        weight = self.output_weight(model, layer)
        written = torch.einsum("bhd,hdm->bhm", z, weight).float()
        if self.norm is None:
            return written
        module = getattr(model.blocks[layer], self.norm)
        norm = LinearNorm.of(module, model.cfg.d_model, weight)
        whole = written.sum(1) + output_bias(model, layer)
        normed = module(whole[None].to(weight.dtype))[0].float()
        return norm.direction(written) * norm.factor(whole, normed)[:, None]

    def _not_additive(self, model: TransformerBridge, purpose: str) -> InputError:
        reason = f"it multiplies what attention writes by {self.scale:.3g}"
        if not self.known or self.norm is not None:
            reason = "it has a norm after attention" if self.known else _NO_SUM
        return InputError(
            f"{purpose} needs heads that add to the residual stream, not so in a model of the architecture "
            f"{model.cfg.architecture}: {reason}; attribution and patching work on every model"
        )


def output_bias(model: TransformerBridge, layer: int) -> Float[Tensor, " d_model"]:
    """What attention adds to the residual stream whatever its heads do."""
    attn = model.blocks[layer].attn
    bias = getattr(attn, "b_O", None)
    return attn.W_O.new_zeros(model.cfg.d_model) if bias is None else bias


@dataclass(frozen=True)
class _Layer:
    """What one layer's attention wrote and what it added, [pos, d_model]; by how much each number may be off; the norm
    that what was written went into, if one did."""

    written: Tensor
    added: Tensor
    bound: Tensor
    norm: str | None

    def equals(self, guess: Tensor) -> bool:
        return bool(((guess - self.added).abs() <= self.bound).all())


@torch.no_grad()
def _measured(model: TransformerBridge) -> ResidualWrites:
    layers = range(model.cfg.n_layers)
    points = ["attn.hook_z", "hook_resid_post", *["hook_mlp_out"] * has_mlps(model)]
    names = [f"blocks.{layer}.{point}" for layer in layers for point in points]
    norms = [f"blocks.{layer}.{norm}.hook_in" for layer in layers for norm in _NORMS]
    kept: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        kept[name] = x[0].clone()

    def shrink(name: str, x: Tensor) -> Tensor:
        size = x.float().pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-9)
        kept[name] = (x.float() * (SMALL / size)).to(x.dtype)[0]
        return kept[name][None]

    hooks: dict[str, HookFunction] = {"unembed.hook_in": partial(keep, "unembed.hook_in")}
    has_points = all(has_hook(model, name) for name in names)
    if has_points:
        hooks |= {name: partial(keep, name) for name in (*names, *norms) if has_hook(model, name)}
        before = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
        hooks |= {name: partial(shrink, name) for name in before}
    length = min(TOKENS, model.cfg.n_ctx)
    # the vocabulary's beginning, where special tokens stand, is left to the first of them
    ids = [k * model.cfg.d_vocab // length for k in range(length)]
    with hooked(model, hooks):
        logits = model(torch.tensor([ids], device=model_device(model)))[0].float()
    tolerance = _TOLERANCE.get(next(model.parameters()).dtype, _ROUGH_TOLERANCE)
    logit_scale = _logit_scale(model, kept["unembed.hook_in"], logits, tolerance)
    shape = (model.cfg.n_heads, model.cfg.d_head)
    # in some models not every layer has attention of this kind
    if not has_points or any(kept[f"blocks.{layer}.attn.hook_z"].shape[-2:] != shape for layer in layers):
        return ResidualWrites(False, logit_scale=logit_scale)
    measured = [_layer(model, layer, kept, tolerance) for layer in layers]
    norm = measured[0].norm
    if norm is not None:
        like = next(model.parameters())
        known = all(
            layer.norm == norm and layer.equals(getattr(block, norm)(layer.written[None].to(like.dtype))[0].float())
            for block, layer in zip(model.blocks, measured, strict=True)
        )
        first = norm != "ln1" and has_hook(model, "blocks.0.ln1.hook_in")
        return ResidualWrites(known, norm if known else None, 1.0, logit_scale, first)
    parts = ([getattr(layer, part) for layer in measured] for part in ("written", "added", "bound"))
    scale = _multiple(*map(torch.cat, parts))
    return ResidualWrites(scale is not None, None, 1.0 if scale is None else scale, logit_scale)


def _layer(model: TransformerBridge, layer: int, kept: dict[str, Tensor], tolerance: float) -> _Layer:
    points = ("hook_resid_pre", "attn.hook_z", "hook_resid_post")
    pre, z, post = (kept[f"blocks.{layer}.{point}"] for point in points)
    parts = [post, pre, *([kept[f"blocks.{layer}.hook_mlp_out"]] if has_mlps(model) else [])]
    written = torch.einsum("phd,hdm->pm", z, model.blocks[layer].attn.W_O).float() + output_bias(model, layer)

    def enters(norm: str) -> bool:
        entering = kept.get(f"blocks.{layer}.{norm}.hook_in")
        if entering is None:
            return False
        return bool((entering.float() - written).abs().max() <= tolerance * written.abs().max())

    first, *others = (part.float() for part in parts)
    added = first - sum(others)
    rounding = 4 * torch.finfo(post.dtype).eps * sum(part.float().abs() for part in parts)
    norm = next(filter(enters, _NORMS), None)
    return _Layer(written, added, tolerance * added.abs().max() + rounding, norm)


def _logit_scale(model: TransformerBridge, entering: Tensor, logits: Tensor, tolerance: float) -> float | None:
    config = getattr(model.original_model, "config", None)  # a planted model has none
    if getattr(config, "final_logit_softcapping", None):  # of small logits it is nearly a multiple
        return None
    unembedded = model.unembed(entering[None])[0].float()
    return _multiple(unembedded, logits, torch.full_like(logits, tolerance * logits.abs().max().item()))


def _multiple(written: Tensor, added: Tensor, bound: Tensor) -> float | None:
    """The factor between two, 1 if it will do; ``None`` where there is none."""

    def fits(factor: float) -> bool:
        return bool(((factor * written - added).abs() <= bound).all())

    if fits(1.0):
        return 1.0
    weight = bound.clamp_min(torch.finfo(bound.dtype).tiny) ** -2
    factor = float((weight * written * added).sum() / (weight * written**2).sum())
    return factor if fits(factor) else None


@dataclass(frozen=True)
class FinalNorm:
    """y = gain · (x − mean(x) if centred) / scale(x), with scale 1 for models without a final norm; its bias aside. The
    unembedding has the factor that some families (Granite) multiply logits with; soft-caps aside."""

    norm: LinearNorm
    unembedding: Float[Tensor, "d_model d_vocab"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: TransformerBridge) -> "FinalNorm":
        norm = LinearNorm.of(model.ln_final, model.cfg.d_model, next(model.parameters()))
        return cls(norm, model.W_U.detach().float() * (ResidualWrites.of(model).logit_scale or 1.0))

    def direct(
        self, written: Float[Tensor, "*any d_model"], resid: Float[Tensor, "*#any d_model"]
    ) -> Float[Tensor, "*any d_model"]:
        """What ``written``, a part of the final residual stream, becomes after the norm frozen at ``resid``."""
        written = self.norm.direction(written)
        if not self.norm.scaled:
            return written
        resid = resid - resid.mean(-1, keepdim=True) if self.norm.centred else resid
        return written / resid.pow(2).mean(-1, keepdim=True).sqrt()
