"""Two prompts → the heads at tokens that make the model say one thing here and another there."""

from interp.contrast.explain import why
from interp.contrast.explanation import FILES, Why
from interp.contrast.picture import page, svg
from interp.contrast.play import replay
from interp.contrast.proposals import Proposal, Proposals, propose
from interp.contrast.several import Several, why_several
from interp.contrast.template import template_of

__all__ = [
    "FILES",
    "Proposal",
    "Proposals",
    "Several",
    "Why",
    "page",
    "propose",
    "replay",
    "svg",
    "template_of",
    "why",
    "why_several",
]
