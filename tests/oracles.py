"""What tests compare with: whole forwards of a model, and what is known of the planted ones."""

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from interp.activations.metric import task_metric
from interp.models import Model, Site, hooked, parse_site
from interp.planted.models import load_planted_model, planted_truth
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.scores.result import Scores
from interp.tasks import load_task

TL4 = version("transformer-lens") >= "4"
"""Whether this is the environment of ``make test-tl4``."""


def kept(model: Model, tokens: Tensor, *names: str, hooks: dict | None = None) -> list[Tensor]:
    """What passes at these hooks in one forward."""
    values: dict[str, Tensor] = {}
    keep = {name: lambda x, name=name: values.__setitem__(name, x.clone()) for name in names}
    with torch.no_grad(), hooked(model, hooks or {}), hooked(model, keep):
        model(tokens)
    return [values[name] for name in names]


class WholeForwards:
    """One pair run by transformer-lens alone, with the outputs of components given."""

    def __init__(self, model: Model, pair: PromptPair, metric: str = "logit_diff") -> None:
        self.model, self.pair, self.name = model, pair, metric
        with torch.no_grad():
            self.corrupt = model.run_with_cache(torch.tensor([pair.corrupt_tokens]))[1]

    def metric(self, given: Mapping[Site, Tensor]) -> float:
        """Of the clean prompt, with the outputs of these components taken from whole activations at their hooks."""

        def give(site: Site):
            def hook(x: Tensor, **_) -> Tensor:
                if site.head is None:
                    return given[site].expand_as(x).clone()
                x = x.clone()
                x[:, :, site.head] = given[site][..., site.head, :]
                return x

            return site.hook, hook

        tokens = torch.tensor([self.pair.clean_tokens])
        with torch.no_grad():
            logits = self.model.run_with_hooks(tokens, fwd_hooks=[give(site) for site in given])
        return task_metric(logits[:, -1], [self.pair], self.name).item()

    def without(self, *sites: Site) -> float:
        """With the outputs of these components from the corrupt prompt."""
        return self.metric({site: self.corrupt[site.hook] for site in sites})


def planted(name: str, n: int, seed: int = 0) -> tuple[Model, PromptPairs]:
    """A planted model and pairs of its task."""
    model = load_planted_model(name)
    return model, load_task(name).sample(model.tokenizer, n, seed)


def at(site: str) -> tuple[int, int]:
    """Layer and head."""
    parsed = parse_site(site)
    return parsed.layer, parsed.head


def heads_of(model: Model) -> list[Site]:
    return [Site("attn", layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]


def mask(sites: list[str], model: Model) -> np.ndarray:
    """Which heads, [layer, head], these are."""
    heads = np.zeros((model.cfg.n_layers, model.cfg.n_heads), dtype=bool)
    heads[tuple(zip(*map(at, sites), strict=True))] = True
    return heads


def written(name: str) -> np.ndarray:
    """Which heads a planted model's circuit was written into."""
    return mask(list(planted_truth(name).heads), load_planted_model(name))


def assert_written_heads_first(scores: Scores, name: str) -> None:
    heads = planted_truth(name).heads
    best = [f"a{layer}.h{head}" for layer, head in scores.ranked_heads()[: len(heads)]]
    assert set(best) == set(heads)
