"""Time per token of steered generation against plain generation.

    python -m benchmarks.steered_generation [--rounds 5] [--tokens 40] [--threads N]

SmolLM2, one text, KV cache, k = 1. Plain and steered forms run in turn.
"""

import contextlib

import torch

from benchmarks.common import arguments, compare
from interp import Codebooks, attach, generate, load_model
from interp.steering import AddCode, SetCode

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

    goals = dict.fromkeys(list(forms)[1:], "≤ 1.25")
    compare(forms, write, given.rounds, goals, f"a token of a generation, {given.threads} threads")


if __name__ == "__main__":
    main()
