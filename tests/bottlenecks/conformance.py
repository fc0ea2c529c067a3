"""What the conformance suite runs over: every registered bottleneck, on three architectures.

A new bottleneck adds a line to ``CASES`` and nothing else.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.base import bottleneck_class
from interp.models import Model, hooked, parse_site


@dataclass(frozen=True)
class Case:
    kind: str
    options: dict[str, Any]

    def build(self, d_in: int, groups: int) -> Bottleneck:
        cls = bottleneck_class(self.kind)
        return cls(cls.config_class(d_in=d_in, groups=groups, **self.options))


DOCS = Path(__file__).parents[2] / "docs" / "codebooks.md"
OWN = DOCS.read_text(encoding="utf-8").partition("file=hash_code.py -->\n```python\n")[2].partition("```")[0]
"""The documents' worked example of a bottleneck of one's own: one file, one registration."""
exec(compile(OWN, "hash_code.py", "exec"), {"__name__": "hash_code"})  # noqa: S102

CASES = {
    "codebook": Case("codebook", {"n_codes": 12, "k": 2}),
    "own": Case("hash_code", {"n_bits": 4}),
    "discrete-sae": Case(
        "discrete_sae", {"n_codes": 16, "k": 2, "epochs": 60, "lr": 0.02, "l1": 1e-3, "decoder_norm": "atom"}
    ),
    "layer-norm-codebook": Case("layer_norm_codebook", {"n_codes": 12, "k": 2}),
    "metric-codebook": Case("metric_codebook", {"n_codes": 12, "k": 2, "selection": "matching_pursuit"}),
    "vq": Case("vq", {"codes": 16}),
    "residual-vq": Case("residual_vq", {"codes": 8, "slots": 2}),
    "grouped-vq": Case("grouped_vq", {"codes": 8, "slots": 2}),
    "gumbel": Case("gumbel", {"codes": 6, "slots": 2, "steps": 30}),
    "latent-quantization": Case("latent_quantization", {"latents": 3, "levels": 4, "steps": 30}),
    "fsq": Case("fsq", {"latents": 3, "levels": 5, "steps": 30}),
    "binary": Case("binary", {"n_bits": 6, "steps": 30}),
    "lfq": Case("lfq", {"n_bits": 6, "steps": 30}),
    "bsq": Case("bsq", {"n_bits": 6, "steps": 30}),
    "key-value": Case("key_value", {"codes": 6, "slots": 2, "d_key": 4}),
    "prototypes": Case("prototypes", {"codes": 12}),
    "ternary": Case("ternary", {"codes": 8, "slots": 2}),
    "codebook-matching-pursuit-scaled": Case(
        "codebook", {"n_codes": 12, "k": 3, "selection": "matching_pursuit", "magnitude": "scaled"}
    ),
}
FAMILIES = ("gpt2", "llama", "gemma2")
SITES = ("a0", "a1.h1", "m1", "r0")
PROMPTS = (
    "When Mary and John went to the store, John gave a drink to",
    "The war lasted from the year 1732 to the year",
    "def load(self, files, code): :param files:",
)
SHIFT = 4.0
"""Strength of the codes that tests set."""


def fit_all(model: Model, case: Case) -> dict[str, Bottleneck]:
    """A bottleneck for each of :data:`SITES`."""
    fitted = {}
    for site, rows in activations(model).items():
        fitted[site] = case.build(d_in=rows.shape[-1], groups=rows.shape[1] if rows.ndim == 3 else 1)
        fitted[site].fit(rows)
    return fitted


@cache
def activations(model: Model) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {site: [] for site in SITES}

    def keep(site: str):
        head = parse_site(site).head
        return lambda x: seen[site].append((x if head is None else x[:, :, head])[0].clone())

    for site in SITES:
        with hooked(model, {parse_site(site).hook: keep(site)}):
            for prompt in PROMPTS:
                model(prompt)
    return {site: torch.cat(rows) for site, rows in seen.items()}


def trained(case: Case, d_in: int, groups: int) -> Bottleneck:
    """Of a given size, fitted to noise."""
    bottleneck = case.build(d_in, groups)
    return bottleneck.fit(vectors(bottleneck, 20))


def another(bottleneck: Bottleneck, code: int) -> int:
    """The next code that may stand where this one does."""
    n_codes = bottleneck.config.n_codes
    following = [number % n_codes for number in range(code + 1, code + n_codes)]
    return next(number for number in following if bottleneck.slots_of(number) == bottleneck.slots_of(code))


def vectors(bottleneck: Bottleneck, n: int = 9) -> Tensor:
    groups, d_in = bottleneck.config.groups, bottleneck.config.d_in
    return 2 * torch.randn(n, *([groups] if groups > 1 else []), d_in)


def watcher(seen: list[Tensor]):
    return lambda x: seen.append(x.clone())
