"""The final norm with its scale frozen, so that what one component writes can be read off in logits.

Direct logit attribution asks how much of the logits a component adds by itself. The final LayerNorm or RMSNorm is
linear once its scale is held at the value of the whole residual stream. Families differ in gain (Gemma adds 1),
bias and centring, so these are measured by probing the norm rather than read from attribute names.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class FinalNorm:
    """y = gain · (x − mean(x) if centred) / scale(x) + bias, with scale 1 for models without a final norm."""

    gain: Float[Tensor, " d_model"]
    centred: bool
    scaled: bool
    unembedding: Float[Tensor, "d_model d_vocab"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: TransformerBridge) -> "FinalNorm":
        parameter = next(model.parameters())
        d_model = model.cfg.d_model
        # mean 0 and root-mean-square 1 (odd widths: nearly), so that the norm leaves it as it is
        probe = torch.ones(d_model, device=parameter.device, dtype=parameter.dtype)
        probe[1::2] = -1.0

        def norm(x: Tensor) -> Tensor:
            return model.ln_final(x[None, None]).squeeze(0).squeeze(0).float()

        def same(x: Tensor, y: Tensor) -> bool:
            return torch.allclose(x, y, atol=0.01 * y.abs().max().item())

        bias = norm(torch.zeros_like(probe))
        plain = norm(probe) - bias
        centred = same(norm(probe + 3.0) - bias, plain)
        scaled = same(norm(2.0 * probe) - bias, plain)
        return cls(plain * probe.float(), centred, scaled, model.W_U.detach().float())

    def direct(
        self, written: Float[Tensor, "*any d_model"], resid: Float[Tensor, "*#any d_model"]
    ) -> Float[Tensor, "*any d_model"]:
        """What ``written``, a part of the final residual stream, becomes after the norm frozen at ``resid``."""
        if self.centred:
            written = written - written.mean(-1, keepdim=True)
            resid = resid - resid.mean(-1, keepdim=True)
        if self.scaled:
            written = written / resid.pow(2).mean(-1, keepdim=True).sqrt()
        return written * self.gain
