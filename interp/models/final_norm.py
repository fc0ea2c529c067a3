"""The final norm with its scale frozen, so that what one component writes can be read off in logits.

Direct logit attribution asks how much of the logits a component adds by itself. The final LayerNorm or RMSNorm is
linear once its scale is held at the value of the whole residual stream.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from interp.models.linear_norm import LinearNorm
from interp.models.wiring import Wiring


@dataclass(frozen=True)
class FinalNorm:
    """y = gain · (x − mean(x) if centred) / scale(x), with scale 1 for models without a final norm; its bias aside.

    Attributes:
        unembedding: with the factor that some families (Granite) multiply logits with; soft-caps aside.
    """

    norm: LinearNorm
    unembedding: Float[Tensor, "d_model d_vocab"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: TransformerBridge) -> "FinalNorm":
        norm = LinearNorm.of(model.ln_final, model.cfg.d_model, next(model.parameters()))
        return cls(norm, model.W_U.detach().float() * (Wiring.of(model).logit_scale or 1.0))

    def direct(
        self, written: Float[Tensor, "*any d_model"], resid: Float[Tensor, "*#any d_model"]
    ) -> Float[Tensor, "*any d_model"]:
        """What ``written``, a part of the final residual stream, becomes after the norm frozen at ``resid``."""
        written = self.norm.direction(written)
        if not self.norm.scaled:
            return written
        resid = resid - resid.mean(-1, keepdim=True) if self.norm.centred else resid
        return written / resid.pow(2).mean(-1, keepdim=True).sqrt()
