"""A forward pass with a codebook at every head against the plain one (benchmarks/REPORT.md).

    python -m benchmarks.codebook_forward [--rounds 5] [--threads N]

SmolLM2, 16 texts of 64 tokens, 270 heads, 512 codes each (activations of the same heads). All forms run in turn. The
similarities alone are 0.6 GFLOP a layer beside 9 of the plain forward.
"""

import contextlib

import torch
from torch import Tensor

from benchmarks.common import arguments, compare
from interp import attach, load_model
from interp.bottlenecks import Codebook, CodebookConfig
from interp.models import Model, hooked

BATCH, LENGTH, N_CODES = 16, 64, 512
GOALS = {"cosine, k = 1": "≤ 1.3", "cosine, k = 8": "≤ 1.6"}


def main() -> None:
    given = arguments(__doc__, rounds=5, threads=torch.get_num_threads())
    model = load_model()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (BATCH, LENGTH), generator=generator)
    books = head_books(model, tokens)
    forms = {"plain": contextlib.nullcontext()}
    for name, options in {
        "cosine, k = 1": {"k": 1},
        "cosine, k = 8": {"k": 8},
        "residual, k = 8": {"k": 8, "selection": "matching_pursuit"},
    }.items():
        forms[name] = attach(
            model, {site: with_options(book, options) for site, book in books.items()}, error_term=False
        )

    def run(_round: int) -> int:
        model(tokens)
        return 1

    title = f"SmolLM2, {BATCH} × {LENGTH} tokens, 270 codebooks of {N_CODES}, {given.threads} threads"
    compare(forms, run, given.rounds, GOALS, title)


def head_books(model: Model, tokens: Tensor) -> dict[str, Codebook]:
    """A codebook per layer whose codes are activations of its heads."""
    seen: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack, torch.no_grad():
        for layer in range(model.cfg.n_layers):
            keep = lambda z, site=f"a{layer}": seen.__setitem__(site, z.flatten(0, 1))  # noqa: E731
            stack.enter_context(hooked(model, {f"blocks.{layer}.attn.hook_z": keep}))
        model(tokens)
    books = {}
    for site, z in seen.items():
        book = Codebook(CodebookConfig(z.shape[-1], N_CODES, groups=z.shape[1])).requires_grad_(False)
        book.codes.copy_(z[torch.randperm(len(z))[:N_CODES]].transpose(0, 1))
        books[site] = book
    return books


def with_options(book: Codebook, options: dict) -> Codebook:
    new = Codebook(CodebookConfig(book.config.d_in, N_CODES, groups=book.config.groups, **options))
    new.codes = book.codes
    return new


if __name__ == "__main__":
    main()
