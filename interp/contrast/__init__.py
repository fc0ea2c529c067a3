"""Two prompts → the heads at tokens that make the model say one thing here and another there."""

from interp.contrast.explain import why
from interp.contrast.explanation import Why
from interp.contrast.play import replay

__all__ = ["Why", "replay", "why"]
