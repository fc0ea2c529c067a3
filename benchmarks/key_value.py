"""New facts by the values of a key–value bottleneck, beside finetuning as many weights: what else changes?

    python -m benchmarks.key_value           # measure; finished cells are kept
    python -m benchmarks.key_value --show    # print what is there, run nothing

What one MLP writes is moved in the form that leaves the rest of the model alone: x + Δ(codes of x), Δ summed over the
keys that are hit. Arms: ``values``, of the keys that the countries hit; ``rows``, as many rows of the MLP's output
matrix, those of the neurons that are most active at the countries; ``matrix``, all of its rows. Layer and learning
rates were chosen on the facts of seed 100, which are judged nowhere. benchmarks/TABLES.md has the rest.
"""

from collections.abc import Callable
from random import Random

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from interp.activations.metric import kl_divergence
from interp.activations.stream import end_logits
from interp.bottlenecks.base import bottleneck_class
from interp.bottlenecks.fit import FIT_TOKENS
from interp.files import write_json
from interp.models import load_model
from interp.models.hooks import hooked
from interp.stats import mean_interval
from interp.text import load_text

OUT = RESULTS / "key_value.json"
_LIST = """France:Paris Germany:Berlin Italy:Rome Spain:Madrid Japan:Tokyo China:Beijing Russia:Moscow Greece:Athens
Egypt:Cairo Austria:Vienna Ireland:Dublin Portugal:Lisbon Poland:Warsaw Sweden:Stockholm Norway:Oslo Denmark:Copenhagen
Finland:Helsinki Hungary:Budapest Cuba:Havana Peru:Lima Kenya:Nairobi Iran:Tehran Iraq:Baghdad Belgium:Brussels
Canada:Ottawa England:London India:Delhi Ukraine:Kiev Switzerland:Bern Chile:Santiago Argentina:Buenos Mexico:Mexico
Scotland:Edinburgh Wales:Cardiff Syria:Damascus Israel:Jerusalem Bulgaria:Sofia"""
CAPITALS = dict(pair.split(":") for pair in _LIST.split())
"""Those of one token that SmolLM2 names right in all five wordings."""
TOLD = (
    "The capital of {} is",
    "Q: What is the capital of {}? A: The capital is",
    "I flew to {} and landed in its capital,",
)
OTHERS = ("The capital city of {} is called", "The government of {} sits in the city of")
LAYER, EDITED, STEPS, SURE = 4, 12, 150, 0.8
RATES = {"values": 0.09, "rows": 0.009, "matrix": 0.003}
"""Of Adam. Training ends when every new answer has the probability :data:`SURE`, or after :data:`STEPS`."""


class Facts:
    """The model, its facts, and one MLP."""

    def __init__(self) -> None:
        self.model = load_model()
        self.point = f"blocks.{LAYER}.mlp"
        self.answers = {land: self.model.to_single_token(f" {city}") for land, city in CAPITALS.items()}
        training = load_text("stdlib+self", self.model, n_tokens=FIT_TOKENS)
        self.text = load_text("stdlib+self", self.model, n_tokens=3072, split="heldout").tokens
        rows: list[Tensor] = []
        with torch.no_grad():
            with hooked(self.model, {f"{self.point}.hook_out": lambda x: rows.append(x[:, 1:].flatten(0, 1).clone())}):
                for tokens in training.tokens.split(16):
                    end_logits(self.model, tokens)
            self.plain = torch.cat([self.log_p(tokens) for tokens in self.text.split(16)])
        cls = bottleneck_class("key_value")
        self.book = cls(cls.config_class(d_in=self.model.cfg.d_model)).fit(torch.cat(rows))

    def log_p(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).log_softmax(-1)

    def at_end(self, wordings: tuple[str, ...], lands: list[str]) -> Tensor:
        """Log-probabilities after each prompt, [wording, land, token]."""
        log_probabilities = []
        for wording in wordings:
            prompts = [self.model.to_tokens(wording.format(land))[0] for land in lands]
            longest = max(map(len, prompts))
            padded = torch.stack([torch.nn.functional.pad(p, (0, longest - len(p))) for p in prompts])
            ends = torch.tensor([len(p) - 1 for p in prompts])
            log_probabilities.append(self.model(padded)[torch.arange(len(prompts)), ends].log_softmax(-1))
        return torch.stack(log_probabilities)

    def named(self, wordings: tuple[str, ...], facts: dict[str, int]) -> float:
        """Share of the facts whose answer is the most likely of all capitals."""
        cities = torch.tensor(list(self.answers.values()))
        best = cities[self.at_end(wordings, list(facts))[..., cities].argmax(-1)]
        return float((best == torch.tensor(list(facts.values()))).float().mean())


class Edit:
    """What is added to an MLP's output: rows of a table, those that its codes or its neurons name.

    Attributes:
        weights: the rows that may change, by which they differ from the model's own.
        inside: functions that are to be hooked in.
    """

    def __init__(self, facts: Facts, arm: str, edited_lands: list[str]) -> None:
        self.facts, self.last = facts, torch.zeros(0)
        seen: dict[str, list[Tensor]] = {"hook_post": [], "hook_out": []}
        keep: dict[str, Callable[[Tensor], None]] = {
            f"{facts.point}.{name}": (lambda x, kept=kept: kept.append(x[0, -1].clone())) for name, kept in seen.items()
        }
        with torch.no_grad(), hooked(facts.model, keep):
            for wording in TOLD:
                for land in edited_lands:  # read up to the country
                    end_logits(facts.model, facts.model.to_tokens(wording.partition("{}")[0] + land))
        hit = facts.book.encode(torch.stack(seen["hook_out"])).ids.unique().long()
        d_mlp = facts.model.cfg.d_mlp
        active = torch.stack(seen["hook_post"]).abs().mean(0)
        self.kept = {"values": hit, "rows": active.topk(min(len(hit), d_mlp)).indices, "matrix": torch.arange(d_mlp)}[
            arm
        ]
        self.place = torch.full((max(facts.book.config.n_codes, d_mlp),), -1)
        self.place[self.kept] = torch.arange(len(self.kept))
        self.weights = torch.zeros(len(self.kept), facts.model.cfg.d_model, requires_grad=True)
        self.inside = (
            {f"{facts.point}.hook_out": self._by_codes}
            if arm == "values"
            else {f"{facts.point}.hook_post": self._keep, f"{facts.point}.hook_out": self._by_neurons}
        )

    def _by_codes(self, x: Tensor) -> Tensor:
        at = self.place[self.facts.book.encode(x.detach()).ids.long()]
        return self._added(x, (self.weights[at.clamp(min=0)] * (at >= 0)[..., None]).sum(-2))

    def _keep(self, x: Tensor) -> None:
        self.last = x[..., self.kept].detach()

    def _by_neurons(self, x: Tensor) -> Tensor:
        return self._added(x, self.last @ self.weights)

    def _added(self, x: Tensor, change: Tensor) -> Tensor:
        """Everywhere but at BOS, which is the same in every text."""
        return torch.cat([x[:, :1], x[:, 1:] + change[:, 1:]], 1)

    def learn(self, new: dict[str, int], rate: float) -> int:
        """Steps taken until the facts are known."""
        optimizer = torch.optim.Adam([self.weights], lr=rate)
        wanted = torch.tensor(list(new.values()))
        for step in range(STEPS):
            log_p = self.facts.at_end(TOLD, list(new))[:, torch.arange(len(new)), wanted]
            if log_p.min() >= np.log(SURE):
                return step
            optimizer.zero_grad()
            (-log_p.mean()).backward()
            optimizer.step()
        return STEPS


def cell(facts: Facts, arm: str, seed: int, rate: float) -> dict:
    """One arm on the facts of one seed."""
    draw = Random(seed)
    lands = draw.sample(list(CAPITALS), len(CAPITALS))
    edited, left = lands[:EDITED], lands[EDITED:]
    new = dict(zip(edited, (facts.answers[land] for land in left), strict=False))
    first, second = ({land: new[land] for land in part} for part in (edited[: EDITED // 2], edited[EDITED // 2 :]))
    edit = Edit(facts, arm, edited)
    with hooked(facts.model, edit.inside):
        steps = [edit.learn(first, rate)]
        with torch.no_grad():
            once = facts.named(OTHERS, first)
        steps.append(edit.learn(second, rate))
        with torch.no_grad():
            changed = torch.cat([facts.log_p(tokens) for tokens in facts.text.split(16)])
            kl = kl_divergence(facts.plain, changed).mean(1)
            return {
                "arm": arm,
                "seed": seed,
                "rate": rate,
                "steps": steps,
                "weights": edit.weights.numel(),
                "told": facts.named(TOLD, second),
                "held_out": facts.named(OTHERS, second),
                "first_before": once,
                "first_after": facts.named(OTHERS, first),
                "others": facts.named(TOLD + OTHERS, {land: facts.answers[land] for land in left}),
                "kl": float(kl.mean()),
            }


def main() -> None:
    given = arguments(__doc__, seeds=4, seed=0, show=False)
    torch.set_num_threads(1)
    cells, facts = kept(OUT, {}), None
    for seed in range(given.seed, given.seed + given.seeds):
        for arm, rate in () if given.show else RATES.items():
            name = f"m{LAYER} {arm} {rate:g} seed {seed}"
            if name not in cells:
                facts = facts or Facts()
                cells[name] = cell(facts, arm, seed, rate) | {"layer": LAYER}
                write_json(OUT, cells)
                print(name, cells[name])
    show(list(cells.values()))


COLUMNS = {
    "told": "new facts, as told",
    "held_out": "in other words",
    "first_before": "first six, before",
    "first_after": "after the others",
    "others": "25 other capitals",
    "kl": "KL on text",
}


def show(cells: list[dict]) -> None:
    """Means over seeds with 95 % intervals, and differences of the first arm from the others by seed."""
    rows = []
    for layer, arm, rate in sorted({(cell["layer"], cell["arm"], cell["rate"]) for cell in cells}):
        arm_cells = [cell for cell in cells if (cell["layer"], cell["arm"], cell["rate"]) == (layer, arm, rate)]
        values = np.array([[cell[name] for name in COLUMNS] for cell in arm_cells])
        ends = mean_interval(values, 0) if len(arm_cells) > 1 else (values[0], values[0])
        intervals = (interval(*each, ".3f") for each in zip(values.mean(0), *ends, strict=True))
        weights, steps = (np.mean([np.sum(cell[name]) for cell in arm_cells]) for name in ("weights", "steps"))
        rows.append((f"m{layer} {arm} {rate:g}", f"{weights:,.0f}", f"{steps:.0f}", *intervals))
    title = "Mean over draws of facts [95 %]"
    print_table(("arm", "weights", "steps", *COLUMNS.values()), rows, title)


if __name__ == "__main__":
    main()
