"""Exact interventions on a planted model: heads swapped, single edges patched, attention read."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from interp.models.hooks import hooked
from interp.planted.models import load_planted_model
from interp.planted.tasks import load_planted_task

NEGLIGIBLE = 1e-3
"""Share of the clean-corrupt gap below which there is no effect."""


class Bench:
    """One model with 32 pairs of its task and the z of every head on both prompts."""

    def __init__(self, name: str, counterfactual: str) -> None:
        self.model = load_planted_model(name)
        self.pairs = load_planted_task(name).sample(self.model.tokenizer, 32, 0, counterfactual)
        self.clean = torch.tensor([pair.clean_tokens for pair in self.pairs])
        self.corrupt = torch.tensor([pair.corrupt_tokens for pair in self.pairs])
        self.z_clean, self.z_corrupt = self.read("z", self.clean), self.read("z", self.corrupt)
        self.metric_clean = self.metric(self.model(self.clean))
        self.metric_corrupt = self.metric(self.model(self.corrupt))
        self.gap = (self.metric_clean - self.metric_corrupt).mean()

    def metric(self, logits: Tensor) -> Tensor:
        rows = torch.arange(len(self.pairs))
        answer = logits[rows, -1, [pair.answers[0] for pair in self.pairs]]
        return answer - logits[rows, -1, [pair.wrong_answers[0] for pair in self.pairs]]

    def read(self, what: str, tokens: Tensor) -> list[Tensor]:
        """hook_z (or q, pattern, …) of every layer."""
        seen: dict[int, Tensor] = {}
        layers = range(self.model.cfg.n_layers)
        with hooked(self.model, {hook(layer, what): _store(seen, layer) for layer in layers}):
            self.model(tokens)
        return [seen[layer] for layer in layers]

    def swapped(self, *sites: str) -> dict:
        """Hooks that give these heads, at all positions, their z on the corrupt prompt."""
        functions = {}
        for layer in range(self.model.cfg.n_layers):
            heads = [head for at, head in map(parse, sites) if at == layer]
            if heads:
                functions[hook(layer, "z")] = given(self.z_corrupt[layer], heads)
        return functions

    def effect(self, functions: dict, base: dict | None = None) -> float:
        """Fall of the mean metric under these hooks, on top of ``base``, as a share of the gap."""
        with hooked(self.model, base or {}):
            before = self.metric(self.model(self.clean)) if base else self.metric_clean
            with hooked(self.model, functions):
                after = self.metric(self.model(self.clean))
        return ((before - after).mean() / self.gap).item()

    def attribution(self, site: str) -> float:
        """Attribution patching: the linear estimate of ``effect(swapped(site))``."""
        layer, head = parse(site)
        kept = {}

        def keep(x: Tensor) -> Tensor:
            kept["z"] = x.detach().requires_grad_(True)
            return kept["z"]

        with hooked(self.model, {hook(layer, "z"): keep}):
            (self.metric(self.model(self.clean)).mean() / self.gap).backward()
        change = (self.z_clean[layer] - self.z_corrupt[layer])[:, :, head]
        return (change * kept["z"].grad[:, :, head]).sum().item()

    def edges(self, senders: Sequence[str], receiver: str, into: str, base: dict | None = None) -> dict:
        """Hooks for path patching: only what ``senders`` add to one input of ``receiver`` becomes corrupt.

        Without norms the input is linear in what the senders write, so one run is exact. Under ``base`` they may write
        something else than in the clean run.
        """
        z_clean = self.z_clean
        if base:
            with hooked(self.model, base):
                z_clean = self.read("z", self.clean)
        to_layer, to_head = parse(receiver)
        written = torch.zeros(*self.clean.shape, self.model.cfg.d_model)
        for layer, head in map(parse, senders):
            change = (self.z_corrupt[layer] - z_clean[layer])[:, :, head]
            written += change @ self.model.blocks[layer].attn.W_O[head]
        read = written @ getattr(self.model.blocks[to_layer].attn, f"W_{into.upper()}")[to_head]

        def add(x: Tensor) -> Tensor:
            x = x.clone()
            x[:, :, to_head] += read
            return x

        return {hook(to_layer, into): add}


def hook(layer: int, what: str) -> str:
    return f"blocks.{layer}.attn.hook_{what}"


def parse(site: str) -> tuple[int, int]:
    layer, head = site.removeprefix("a").split(".h")
    return int(layer), int(head)


def _store(seen: dict[int, Tensor], layer: int):
    def store(x: Tensor) -> None:
        seen[layer] = x.clone()

    return store


def given(value: Tensor, heads: list[int]):
    def hook(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, heads] = value[:, :, heads]
        return x

    return hook


@cache
def bench(name: str, counterfactual: str) -> Bench:
    return Bench(name, counterfactual)


def attention(b: Bench, site: str, query: str, key: str, tokens: Tensor | None = None) -> float:
    """Mean weight of ``site`` from one role's position to another's."""
    layer, head = parse(site)
    pattern = b.read("pattern", b.clean if tokens is None else tokens)[layer][:, head]
    rows = torch.arange(len(b.pairs))
    to = [0 if key == "BOS" else pair.positions[key] for pair in b.pairs]
    return pattern[rows, [pair.positions[query] for pair in b.pairs], to].mean().item()
