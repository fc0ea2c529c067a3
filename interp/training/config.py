"""What codebooks are trained by."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from interp.bottlenecks.dictionary import Dictionary
from interp.errors import InputError, check_fields


def usual_step(k: int, *, mlps: bool = False) -> float:
    """The step of codes of which each vector gets ``k``: many together move a vector's code far, where one does not.

    It rests on runs of 1, 8 and 32 codes at heads and of one at MLP outputs, distilled, some by earlier code
    (benchmarks/REPORT.md): .02 was better than .01 for one, .01 than .003 for eight; of 32, steps of .01 lost what
    k-means had, and of .002 kept it; .003 was best at MLPs. What lies between, and other objectives, follow from these.
    """
    at_heads = 0.02 if k == 1 else 0.01 if k <= 8 else 0.002
    return min(at_heads, 0.003) if mlps else at_heads


@dataclass(frozen=True)
class TrainConfig:
    # ``local``: each book reconstructs what reaches its site, nothing else. ``distilled``: KL from the plain model's
    # next-token distribution to the spliced model's, which is frozen, plus λ times the reconstruction error. ``joint``:
    # the spliced model's cross-entropy plus the same, and the model is finetuned along with the codes (Tamkin,
    # Taufeeque & Goodman 2023, §2)
    objective: Literal["local", "distilled", "joint"] = "distilled"
    # Adam's step for the codes, in units of the spread (standard deviation per coordinate) of what comes to each head
    # or site, as the book compares vectors. ``None``: :func:`usual_step`
    lr: Annotated[float | None, Ge(0)] = None
    model_lr: Annotated[float, Ge(0)] = 2e-5  # AdamW's step for the model's weights (joint only)
    # λ. The error is the share of variance not explained, averaged over heads and sites, so λ = 1 weighs explaining
    # nothing at all like one nat
    mse_weight: Annotated[float, Ge(0)] = 0.1
    batch_size: Annotated[int, Ge(1)] = 8  # blocks of text a step
    epochs: Annotated[int, Ge(1)] = 1
    # share of the steps over which the step sizes rise; they fall to zero, linearly, over the rest
    warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    # train with a number of codes drawn anew each step from 1, 2, 4, … and the books' own k, so that one book serves
    # them all
    nested: bool = False
    # rounds of :mod:`~interp.training.centroid_refit` at the end, for ``distilled`` codes that are not ``nested``: they
    # end nearer to the vectors that they stand for
    centroid_refits: Annotated[int, Ge(0)] = 0
    # steps after which codes that were not used meanwhile are replaced, until four fifths of the run; 0 leaves them
    replace_every: Annotated[int, Ge(0)] = 50
    checkpoint_every: Annotated[int, Ge(1)] = 50
    # of the model's matrix products: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 on a GPU and float32 on
    # a processor. Processors that multiply bfloat16 (AVX512-BF16, AMX) train faster with it (1.6 × measured), others
    # far more slowly. Codes, their gradients and similarities are float32 always
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.centroid_refits and (self.nested or self.objective != "distilled"):
            kind = "nested" if self.nested else self.objective
            raise InputError(
                f"centroid_refits {self.centroid_refits}: only distilled codes for one k are refitted, not {kind} ones"
            )

    def for_codes(self, k: int, *, mlps: bool = False) -> "TrainConfig":
        """The same with ``lr`` filled in for books that give each vector ``k`` codes; ``mlps``: all at MLP outputs."""
        return self if self.lr is not None else replace(self, lr=usual_step(k, mlps=mlps))

    def for_books(self, books: Mapping[str, Dictionary]) -> "TrainConfig":
        """The same for books by their sites, by their largest k, nested or not."""
        k = max(book.config.k for book in books.values())
        return self.for_codes(k, mlps=all(site.startswith("m") for site in books))

    def step_size(self, step: int, n_steps: int) -> float:
        """Factor of the step sizes at a step, counted from 0."""
        rising = max(1, round(self.warmup * n_steps))
        return min((step + 1) / rising, (n_steps - step) / max(1, n_steps - rising))
