"""Time per token of steered generation against plain generation.

    python benchmarks/steered_generation.py [--codebooks DIR] [--rounds 5] [--tokens 40] [--threads N]

SmolLM2, one text, KV cache, k = 1. Plain and steered forms run in turn, several rounds in one process, and are compared
within a round: on a shared machine only the ratio means something, and best that of processor time.

Then the way to the first new token, as the workbench goes it: from codes by name to the moment at which the page is
told the first token of base and steered (and of random codes), rows of one batch, in plain forwards of the prompt.
"""

import argparse
import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import code_edits
from interp.bottlenecks.store import Codebooks
from interp.models import load_model
from interp.models.generate import generate
from interp.steering import AddCode, SetCode, WeightedCode
from interp.steering.continuations import continue_prompts
from interp.steering.request import random_codes

GOAL = 1.25
FIRST_GOAL = 5
"""Plain forwards."""
PROMPT = "Once upon a time, there was a little girl who"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--codebooks", default="smollm2-135m-instruct-k1", help="name or folder [default: %(default)s]"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model()
    books = Codebooks.from_pretrained(given.codebooks, model, k=1)
    layers = [site for site in books if site.startswith("a") and "." not in site]
    heads = [f"{site}.h{head}" for site in layers for head in range(model.cfg.n_heads)]
    spread = heads[:: max(1, len(heads) // 40)][:40]
    forms = {
        "plain": contextlib.nullcontext(),
        "40 heads set": attach(model, books, read=False).edit(*[SetCode(site, 1) for site in spread]),
        "40 heads added to": attach(model, books, read=False).edit(
            *[AddCode(site, 1, 0.1) for site in spread]
        ),
        f"{len(heads)} heads set": attach(model, books, read=False).edit(
            *[SetCode(site, 1) for site in heads]
        ),
        f"{len(heads)} heads set, spliced": attach(model, books, error_term=False, read=False).edit(
            *[SetCode(site, 1) for site in heads]
        ),
    }
    tokens = model.to_tokens(PROMPT)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for number in range(given.rounds + 1):
        for name, form in forms.items():
            with form:
                clock, processor = time.perf_counter(), time.process_time()
                # sampled, so that hardly any text ends early; what was made is counted
                made = (
                    generate(model, tokens, given.tokens, temperature=1.0, seed=number).shape[1]
                    - tokens.shape[1]
                )
                each = (time.perf_counter() - clock) / made, (time.process_time() - processor) / made
            if number:  # the first round warms up
                taken[name].append(each)
    plain = np.array(taken["plain"])
    table = Table(
        "generation", "ms a token", "× plain", "× processor time", "smallest, largest", "goal", box=None
    )
    for name, values in taken.items():
        ratios = np.array(values) / plain
        wall, processor = np.median(ratios, axis=0)
        table.add_row(
            name,
            f"{1000 * np.median(values, axis=0)[0]:.0f}",
            f"{wall:.2f}",
            f"{processor:.2f}",
            f"{ratios[:, 1].min():.2f}, {ratios[:, 1].max():.2f}",
            f"≤ {GOAL}" if name != "plain" else "",
        )
    Console(width=120).print(table)
    print_first(model, books, [WeightedCode(site, 1) for site in spread], given.rounds)


class _Told(Exception):
    """Ends a generation at its first token."""


def print_first(model, books, codes: list[WeightedCode], rounds: int) -> None:
    """How long the first token takes."""
    tokens = model.to_tokens(PROMPT)
    table = Table("first token", "ms", "plain forwards", "smallest, largest", "goal", box=None)
    for name, how, n_rows in (
        ("set", "set", 2),
        ("added", "added", 2),
        ("added, with random codes", "added", 3),
    ):
        taken = []
        for _ in range(rounds + 1):
            plain = _seconds(lambda: model(tokens))
            taken.append((_seconds(lambda h=how, n=n_rows: _first(model, books, codes, h, n)), plain))
        seconds, plain = np.array(taken[1:]).T  # the first round warms up
        ratios = seconds / plain
        spread = f"{ratios.min():.1f}, {ratios.max():.1f}"
        cells = (f"{1000 * np.median(seconds):.0f}", f"{np.median(ratios):.1f}", spread, f"≤ {FIRST_GOAL}")
        table.add_row(f"{len(codes)} heads {name}", *cells)
    Console(width=120).print(table)


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


@torch.no_grad()
def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
