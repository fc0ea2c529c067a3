"""Time per token of steered generation against plain generation.

    python -m benchmarks.steered_generation [--rounds 5] [--tokens 40] [--threads N]

SmolLM2, one text, KV cache, k = 1. Plain and steered forms run in turn.

Then the way to the first new token, as the workbench goes it: from codes by name to the moment at which the page is
told the first token of base and steered (and of random codes), rows of one batch, in plain forwards of the prompt.
"""

import contextlib

import numpy as np
import torch

from benchmarks.common import arguments, in_turn, print_table, ratio_cells, timed
from interp import Codebooks, attach, generate, load_model
from interp.bottlenecks.edits import code_edits
from interp.steering import AddCode, SetCode, WeightedCode
from interp.steering.continuations import continue_prompts
from interp.steering.request import random_codes

GOAL = 1.25
FIRST_GOAL = 5
"""Plain forwards."""
PROMPT = "Once upon a time, there was a little girl who"


def main() -> None:
    given = arguments(__doc__, rounds=5, tokens=40, threads=torch.get_num_threads())
    model = load_model()
    books = Codebooks.from_pretrained("smollm2-135m-instruct-k1", model, k=1)
    layers = [site for site in books if site.startswith("a") and "." not in site]
    heads = [f"{site}.h{head}" for site in layers for head in range(model.cfg.n_heads)]
    spread = heads[:: max(1, len(heads) // 40)][:40]

    def editing(edits: list, **options: bool):
        return attach(model, books, read=False, **options).edit(*edits)

    every = [SetCode(site, 1) for site in heads]
    forms = {
        "plain": contextlib.nullcontext(),
        "40 heads set": editing([SetCode(site, 1) for site in spread]),
        "40 heads added to": editing([AddCode(site, 1, 0.1) for site in spread]),
        f"{len(heads)} heads set": editing(every),
        f"{len(heads)} heads set, spliced": editing(every, error_term=False),
    }
    tokens = model.to_tokens(PROMPT)

    def write(number: int) -> int:
        """Sampled, so that hardly any text ends early; what was made is counted."""
        new = generate(model, tokens, given.tokens, temperature=1.0, seed=number)
        return new.shape[1] - tokens.shape[1]

    taken = in_turn(forms, write, given.rounds)
    columns = ("generation", "ms a token", "× plain", "× processor time", "smallest, largest", "goal")
    rows = []
    for name, seconds in taken.items():
        goal = None if name == "plain" else f"≤ {GOAL}"
        milliseconds = f"{1000 * np.median(seconds, 0)[0]:.0f}"
        rows.append((name, milliseconds, *ratio_cells(seconds, taken["plain"]), goal))
    print_table(columns, rows)
    print_first(model, books, [WeightedCode(site, 1) for site in spread], given.rounds)


class _Told(Exception):
    """Ends a generation at its first token."""


@torch.no_grad()
def print_first(model, books, codes: list[WeightedCode], rounds: int) -> None:
    """How long the first token takes."""
    tokens = model.to_tokens(PROMPT)
    rows = []
    for name, how, n_rows in (
        ("set", "set", 2),
        ("added", "added", 2),
        ("added, with random codes", "added", 3),
    ):
        taken = []
        for _ in range(rounds + 1):
            plain = timed(lambda: model(tokens)).clock
            first = timed(lambda h=how, n=n_rows: _first(model, books, codes, h, n)).clock
            taken.append((first, plain))
        seconds, plain = np.array(taken[1:]).T  # the first round warms up
        ratios = seconds / plain
        spread = f"{ratios.min():.1f}, {ratios.max():.1f}"
        cells = (f"{1000 * np.median(seconds):.0f}", f"{np.median(ratios):.1f}", spread, f"≤ {FIRST_GOAL}")
        rows.append((f"{len(codes)} heads {name}", *cells))
    print_table(("first token", "ms", "plain forwards", "smallest, largest", "goal"), rows)


def _first(model, books, codes: list[WeightedCode], how: str, n_rows: int) -> None:
    conditions = [codes, random_codes(model, books, codes)][: n_rows - 1]
    edits = [
        edit
        for row, some in enumerate(conditions, 1)
        for edit in code_edits(some, how, scale=0.75, rows=[row])
    ]
    within = attach(model, books, read=False).edit(*edits)

    def told(_tokens: torch.Tensor) -> None:
        raise _Told

    with contextlib.suppress(_Told):
        continue_prompts(model, [PROMPT] * n_rows, 40, within=within, watch=told)


if __name__ == "__main__":
    main()
