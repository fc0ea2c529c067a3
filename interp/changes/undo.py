"""What taking the changed codes back does: to what the model newly does, and to everything else.

======================  ===========================================================================================
arm                     in the tuned model
======================  ===========================================================================================
codes forbidden         a code that changed is never chosen: the next best is
codes set back          where such a code is on, the code that the base has at its word stands in its place
mean difference         at the same sites the difference of the two models' mean outputs is taken away
random codes            as many other codes of the same sites are forbidden
======================  ===========================================================================================

Each is measured by the KL from the base that it takes away: in contexts where the models disagree most, and in others.
The change put into the base: the code stands there at the word that it changed at.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.attach import Attached, attach, home_of
from interp.bottlenecks.edits import CodeEdit, ForbidCode, SetCode, WeightedCode, code_name
from interp.changes.listing import ChangedCode
from interp.codesearch.layout import can_be_edited
from interp.interventions.between_models import kl_between, next_log_p
from interp.interventions.patch import Write, patch_hooks
from interp.models import Model, parse_site
from interp.progress import Stage, silent
from interp.steering.request import random_codes

Step = tuple[CodeEdit, str | None]  # an edit and the gate that it stands behind


@dataclass(frozen=True)
class Undone:
    """Shares of the KL from the base that an arm takes away; negative where it adds, ``None`` where there is none."""

    worst: float | None
    other: float | None


def undoable(codes: Sequence[ChangedCode], books: Mapping[str, Bottleneck], model: Model) -> list[ChangedCode]:
    """Codes that an edit can name and set, each once, and of a site a quarter of all at most: others must be left."""
    chosen: dict[tuple[str, int], ChangedCode] = {}
    sizes = Counter[str]()
    for code in codes:
        if (code.site, code.code) in chosen or not can_be_edited(code.site):
            continue
        book = books[home_of(model, books, code.site)[0]]
        if book.unit_values and sizes[code.site] < book.config.n_codes // 4:
            chosen[code.site, code.code] = code
            sizes[code.site] += 1
    return list(chosen.values())


def forbidden(codes: Sequence[ChangedCode]) -> list[Step]:
    return [(ForbidCode(code.site, code.code), None) for code in codes]


def set_back(codes: Sequence[ChangedCode]) -> list[Step]:
    return [
        (SetCode(code.site, code.instead), code_name(code.site, code.code))
        for code in codes
        if code.instead is not None
    ]


def put_in(codes: Sequence[ChangedCode]) -> list[Step]:
    return [(SetCode(code.site, code.code), token_gate(code)) for code in codes]


def token_gate(code: ChangedCode) -> str:
    """The word that a code changed at, as a gate."""
    return f"token:(?i)^ ?{re.escape(code.word)}$"


def measure_undo(
    base: Model,
    tuned: Model,
    books: Mapping[str, Bottleneck],
    codes: Sequence[ChangedCode],
    means: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    worst: Int[Tensor, "context pos"],
    other: Int[Tensor, "context pos"],
    *,
    stage: Stage = silent,
) -> dict[str, Undone]:
    """Every arm in contexts of equal length, of which the last token counts. ``means``: of base and tuned model, by
    site, heads apart."""
    named = [WeightedCode(code.site, code.code) for code in codes]
    random = random_codes(base, books, named)
    arms: dict[str, list[Step]] = {
        "codes forbidden": forbidden(codes),
        "codes set back": set_back(codes),
        "random codes": [(ForbidCode(site, code), None) for site, code, _ in random],
    }
    texts = {"worst": worst, "other": other}
    shares: dict[str, dict[str, float | None]] = {name: {} for name in (*arms, "mean difference")}
    with torch.no_grad(), stage("undoing", 2 * (len(arms) + 3)) as done:
        for text, tokens in texts.items():
            says = next_log_p(base, tokens)
            whole = kl_between(says, next_log_p(tuned, tokens))
            done(2)
            for name, steps in arms.items():
                with edited(tuned, books, steps):
                    shares[name][text] = _share(kl_between(says, next_log_p(tuned, tokens)), whole)
                done(1)
            back = next_log_p(tuned, tokens, patch_hooks(means_back(codes, means)))
            shares["mean difference"][text] = _share(kl_between(says, back), whole)
            done(1)
    return {name: Undone(**by_text) for name, by_text in shares.items()}


def _share(left: float, whole: float) -> float | None:
    return 1 - left / whole if whole > 0 else None


@contextlib.contextmanager
def edited(model: Model, books: Mapping[str, Bottleneck], steps: Sequence[Step]) -> Iterator[Attached | None]:
    """A model under edits, each behind its own gate, at all positions."""
    used = {home: books[home] for edit, _ in steps for home in [home_of(model, books, edit.site)[0]]}
    if not used:
        yield None
        return
    with attach(model, used) as attached:
        for edit, gate in steps:
            attached.edit(edit, positions="all", when=gate)
        yield attached


def means_back(
    codes: Sequence[ChangedCode], means: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
) -> dict[str, list[Write]]:
    """Takes the difference of the mean outputs away at the sites of some codes."""
    before, after = means
    writes: dict[str, list[Write]] = {}
    for name in dict.fromkeys(code.site for code in codes):
        site = parse_site(name)
        key = name if name in after else str(replace(site, head=None))
        change = before[key] - after[key]
        heads = site.head is not None and change.ndim > 1
        index = (slice(None), slice(None), *([] if site.head is None else [site.head]))
        write = Write(index, change[site.head] if heads else change, add=True)
        writes.setdefault(site.hook, []).append(write)
    return writes
