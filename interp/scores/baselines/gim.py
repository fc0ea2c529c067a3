"""Gradient interaction modifications (GIM): attribution patching, with gradients corrected where values interact.

Edin et al. 2025 (arXiv 2505.17630). As :mod:`.attribution` (``gim``) and :mod:`.eap` (``eap-gim``), with a backward
pass that differs from the gradient in three ways:

1. Softmax: attention that one key loses goes to others that say the same, so each alone looks useless (self-repair).
   The softmax passes back what it would at temperature T = 2: p_T · (g − Σ p_T g) with p_T = softmax(scores / T).
2. Norms: the scale is a constant, also in norms after a layer and of queries and keys.
3. Products: each factor gets half of its gradient, in query · key, pattern · value and gate · up-projection. So queries
   and keys get a quarter, values a half.

We had to choose once. The authors' package (gim-explain 0.1.4) leaves gate · up-projection alone, ``gates=False`` here;
what they ran for the paper halves it, and so does their later code. The factor 1 / T that the derivative of
softmax(scores / T) has is left out in all of theirs, and here.

When it misleads: effects through a product shrink, and those through several shrink more, so long paths count less
beside direct ones. Scores are no estimate of an effect's size: compare ranks. A soft softmax also sees keys that were
never in the running. Activations keep their slope, as with attribution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from interp.models import hooked
from interp.scores.baselines import backward_rules as rules
from interp.scores.eap import EAPConfig
from interp.scores.method import Context, MethodConfig


@dataclass(frozen=True)
class GIMConfig(MethodConfig):
    temperature: Annotated[float, Gt(0)] = 2.0  # of the softmax in the backward pass; 1 is the gradient
    gates: bool = True  # halve gate · up-projection, too


@dataclass(frozen=True)
class EAPGIMConfig(EAPConfig, GIMConfig):
    """The settings of both."""


@contextmanager
def _rules(context: Context) -> Iterator[None]:
    model, config = context.model, context.config
    soft = rules.softened(config.temperature)
    gates = rules.halved_gates(model) if config.gates else {}
    with (
        hooked(model, {**rules.frozen_norms(model), **rules.halved_heads(model), **gates}),
        rules.AttentionPatterns(lambda scores, pattern: rules.halved(soft(scores, pattern))),
    ):
        yield


gim, eap_gim = rules.attributed_by(_rules, "gim", GIMConfig, EAPGIMConfig)
