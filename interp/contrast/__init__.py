"""Two prompts → the heads at tokens that make the model say one thing here and another there."""

from interp.contrast.explain import why
from interp.contrast.explanation import FILES, Why
from interp.contrast.picture import page, svg
from interp.contrast.play import replay
from interp.contrast.proposals import Proposal, Proposals, propose
from interp.contrast.several import Several, why_several

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
    "why",
    "why_several",
]
