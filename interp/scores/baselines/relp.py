"""Relevance patching (RelP): attribution patching with the coefficients of layer-wise relevance propagation.

Rezaei Jafari et al. 2025 (arXiv 2508.21258). As :mod:`.attribution` (``relp``) and :mod:`.eap` (``eap-relp``), but what
multiplies clean − corrupt is no gradient. It is propagated backwards, in one pass too, by these rules:

==============================  ==================================================================================
norms                           LN-rule: the scale is a constant, also in norms after a layer and of queries, keys
activations of MLPs             identity rule: act(x) passes back act(x) / x
gate · up-projection            half rule: each factor passes back half of its gradient
linear maps, logits             0-rule: the gradient
attention                       the gradient; with ``attention="detached"`` the AH-rule: the pattern is a constant
==============================  ==================================================================================

We had to choose at attention. The authors list the AH-rule among their rules, and their demonstration on IOI leaves
it out. With it nothing passes back to queries and keys: heads that act through the attention of others score 0, and so
does every edge into a query or key. The product pattern · value is not halved, as in the released code. Gradients are
taken at the clean prompt, as by attribution here; theirs are at the corrupt one, with the sides exchanged.

When it misleads: MLPs gain most, for act(x) / x says what the neuron does between 0 and x where its slope says what it
does at x. Attention is as with attribution: saturated, it hides what made it so. Where the relevance of a norm's scale
matters (one large channel), it is left out. Coefficients have no meaning for small steps: no finite difference confirms
them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

from interp.models import hooked
from interp.scores.baselines.backward_rules import AttentionPatterns, attributed_by, constant, frozen_norms, shared_mlps
from interp.scores.eap import EAPConfig
from interp.scores.method import Context, MethodConfig

Attention = Literal["gradient", "detached"]


@dataclass(frozen=True)
class RelPConfig(MethodConfig):
    attention: Attention = "gradient"  # `gradient` through the pattern, or the pattern `detached` (AH-rule)


@dataclass(frozen=True)
class EAPRelPConfig(EAPConfig, RelPConfig):
    """The settings of both."""


@contextmanager
def _rules(context: Context) -> Iterator[None]:
    model = context.model
    patterns = AttentionPatterns(constant) if context.config.attention == "detached" else nullcontext()
    with hooked(model, {**frozen_norms(model), **shared_mlps(model)}), patterns:
        yield


relp, eap_relp = attributed_by(_rules, "relp", RelPConfig, EAPRelPConfig)
