"""How a target depends on every site of a model, to first order, and what fluency moving a site costs, to second."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import model_device
from interp.bottlenecks.base import Bottleneck
from interp.models import Model, resolve_site
from interp.progress import Stage, silent
from interp.steering.target import find_target
from interp.steering.texts import TokenizedTexts, batches, expected_tokens, grouped, watched

SAMPLES = 400
"""Texts drawn, from which the Fisher information is estimated."""


@dataclass(frozen=True)
class Pull:
    """How the distribution of next tokens depends on a site, to first order, if one vector is added to it at every
    token of a text.

    Attributes:
        gain: gradient of the target's weighted log p, nats per token.
        scores: of each text and sample the gradient of the log-likelihood of tokens drawn from the model, so scaled
            that ½ Σ ⟨score, v⟩² is KL(with v ‖ without) in nats per token to second order (Fisher information).
    """

    gain: Float[Tensor, "group d_in"]
    scores: Float[Tensor, "sample group d_in"]


def read_pulls(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    positive: TokenizedTexts,
    negative: TokenizedTexts,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    stage: Stage = silent,
) -> dict[str, Pull]:
    """How the target of texts (:func:`~interp.steering.target.find_target`) depends on every site in the negative ones.

    Two forward passes over the negative texts, and one backward pass over these for the target and for every draw of
    their next tokens, of which there are so many that ``samples`` texts are drawn.

    Args:
        samples: 0 where the cost is not asked for.
        seed: of the draws.

    Raises:
        InputError: no token tells the texts apart.
    """
    target = find_target(positive, negative, expected_tokens(model, negative))
    device, n_tokens = model_device(model), int(negative.counted.sum())
    places = {name: resolve_site(model, name) for name in codebooks}
    draws = -(-samples // len(negative.tokens))
    generator = torch.Generator(device).manual_seed(seed)
    gains: dict[str, list[Tensor]] = {name: [] for name in codebooks}
    scores: dict[str, list[Tensor]] = {name: [] for name in codebooks}
    begin = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_()}
    words, weights = target.tokens.to(device), target.weights.to(device)
    with stage("reading gradients", len(negative.tokens) * (1 + draws)) as done:
        for tokens, counted in batches(negative):
            with torch.enable_grad(), watched(model, places, begin) as seen:
                log_p = model(tokens.to(device)).float().log_softmax(-1)[counted.to(device)]
                at = list(seen.values())
                objectives = [(log_p[:, words] @ weights).sum()]
                if draws:
                    p = log_p.detach().exp()
                    drawn = torch.multinomial(p, draws, replacement=True, generator=generator)
                    objectives += [log_p.gather(1, column).sum() for column in drawn.split(1, dim=1)]
                for i, objective in enumerate(objectives):
                    pulls = torch.autograd.grad(objective, at, retain_graph=i < draws)
                    by_hook = dict(zip(seen, pulls, strict=True))
                    for name, book in codebooks.items():
                        pull = grouped(by_hook[places[name].hook], places[name].head, book).float().cpu()
                        pull = (pull * counted[..., None, None]).sum(1)
                        (scores if i else gains)[name].append(pull if i else pull.sum(0))
                    done(len(tokens))
    return {
        name: Pull(
            torch.stack(gains[name]).sum(0) / n_tokens,
            torch.cat(scores[name]) / (draws * n_tokens) ** 0.5 if draws else gains[name][0][None][:0],
        )
        for name in codebooks
    }
