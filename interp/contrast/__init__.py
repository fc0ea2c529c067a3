"""Two prompts → the heads at tokens that make the model say one thing here and another there."""

from interp.contrast.explain import why
from interp.contrast.explanation import FILES, PAGE, PICTURE, RESULT, Why
from interp.contrast.pairs import ExplainedPairs, why_pairs
from interp.contrast.picture import page, svg
from interp.contrast.play import replay
from interp.contrast.proposals import Proposal, Proposals, propose
from interp.contrast.several import Several, why_several
from interp.contrast.template import template_of
