"""How a target depends on every site of a model, to first order."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.models import Model, model_device, resolve_site
from interp.progress import Stage, silent
from interp.steering.target import Target
from interp.steering.texts import TokenizedTexts, batches, grouped, watched


def read_gains(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    target: Target,
    texts: TokenizedTexts,
    *,
    stage: Stage = silent,
) -> dict[str, Float[Tensor, "group d_in"]]:
    """Gradients of the target's weighted log p, nats per token, if one vector is added to a site at every token of the
    texts. One forward and one backward pass over these.
    """
    device = model_device(model)
    places = {name: resolve_site(model, name) for name in codebooks}
    words, weights = target.tokens.to(device), target.weights.to(device)
    begin = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_()}
    gains: dict[str, Tensor] = {}
    with stage("reading gradients", len(texts.tokens)) as done:
        for tokens, counted in batches(texts):
            with torch.enable_grad(), watched(model, places, begin) as seen:
                log_p = model(tokens.to(device))[counted.to(device)].float().log_softmax(-1)
                found = torch.autograd.grad((log_p[:, words] @ weights).sum(), list(seen.values()))
            by_hook = dict(zip(seen, found, strict=True))
            for name, book in codebooks.items():
                gain = grouped(by_hook[places[name].hook], places[name].head, book).float().cpu()[counted]
                gains[name] = gains.get(name, 0) + gain.sum(0)
            done(len(tokens))
    return {name: total / int(texts.counted.sum()) for name, total in gains.items()}
