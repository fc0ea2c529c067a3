"""What all heads through codes cost a model, against the tokens that the codes were trained on.

    python -m benchmarks.codebook_curve --show                       # print what is there, run nothing
    python -m benchmarks.codebook_curve --k 1 8 --tokens 0 12800
    python -m benchmarks.codebook_curve --k 1 --tokens 614400 998400 --centroid-refits 2
    python -m benchmarks.codebook_curve --k 8 --codes 2048 --fit-tokens 44000 --tokens 12800

Codebooks are fitted by k-means (0 tokens), then trained with the defaults of ``interp codebook train`` but for
:data:`ONE_CODE`. Each number of tokens is a run of its own, but that beyond :data:`LONGEST` the books of that run go
on. The controls are those of the fitted books. Rows, fits and trainings resume. One seed: intervals are over blocks of
text.
"""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from interp import Codebooks, load_model
from interp.bench.plan import read_record, write_record
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.evaluation.codebook_quality import quality_of_folder
from interp.progress import bar
from interp.text import load_text
from interp.training import TrainConfig, train_codebooks

DATA, JUDGED = "stdlib+self", ["self", "stdlib"]
ONE_CODE = TrainConfig(batch_size=4, replace_every=100)
"""For k = 1: chosen on 12,800 tokens, by other blocks of the training split (benchmarks/REPORT.md)."""
N_CODES, FIT_TOKENS = 512, 22_000
"""Of the rows whose names say neither."""
TOKENS, EVAL_TOKENS = [0, 12_800, 51_200], 4096
OUT, WORK = RESULTS / "codebook_curve", Path("runs/curve")
"""Where rows and codebooks lie."""
TEXT = 204_800
"""Tokens of text at most in a run from fitted books, since samples are dear and docstrings few; for more tokens it is
seen several times."""
LONGEST = 614_400
"""Tokens of one run at most; with more its books, refitted or not, go on for one epoch with steps of half the size, on
as much text as is missing. Docstrings end at 206 829 tokens, so rows do at about 1.03 million."""
LONG_PRECISION = "bfloat16"
"""From :data:`TEXT` on: hours become bearable where the processor multiplies bfloat16."""


def main() -> None:
    given = arguments(
        __doc__, k=[1, 8, 32], tokens=TOKENS, centroid_refits=0, codes=N_CODES, fit_tokens=FIT_TOKENS, show=False
    )
    rows = [(k, tokens) for k in given.k for tokens in sorted({0, *given.tokens})]
    results = {row: _read(given, *row) for row in rows}
    if not given.show and None in results.values():
        model = load_model()
        for row in rows:
            if results[row] is None:
                results[row] = _measured(given, model, *row)
    results = {row: result for row, result in results.items() if result is not None}
    print(f"{given.codes:,} codes a head, fitted on {given.fit_tokens:,} tokens")
    names = ("k", "trained on", "text", "CE increase [95 %]", "KL", "variance explained: mean, least", "dead")
    print_table(names, _costs(results))
    print_table(("k", "text", "control, before training", "CE increase [95 %]"), _controls(results), left=3)


def _measured(given: Namespace, model, k: int, tokens: int) -> dict:
    books, controls = _books(given, model, k, tokens), 0 if tokens else 16
    quality = quality_of_folder(model, books, JUDGED, n_tokens=EVAL_TOKENS, control_blocks=controls, stage=bar)
    result = {text["spec"]: {"rows": text["rows"], "usage": text["usage"]} for text in quality["texts"]}
    write_record(_path(given, k, tokens), _settings(given, k, tokens), result)
    return result


def _books(given: Namespace, model, k: int, tokens: int) -> Codebooks:
    if tokens == 0:
        text = load_text(DATA, model, n_tokens=given.fit_tokens, stage=bar)
        folder = WORK / f"{_kind(given, k)}-fitted"
        return fit_codebooks(model, ["heads"], text, folder, _fitted(given, k), stage=bar)
    before = _before(tokens)
    start, config = _books(given, model, k, before), _trained(given, k, tokens)
    text = load_text(DATA, model, n_tokens=(tokens - before) // config.epochs, stage=bar)
    return train_codebooks(model, start, text, WORK / _name(given, k, tokens), config, stage=bar)


def _before(tokens: int) -> int:
    """Tokens that the books have seen when a row's own run begins."""
    return LONGEST if tokens > LONGEST else 0


def _fitted(given: Namespace, k: int) -> FitConfig:
    return FitConfig(n_codes=given.codes, k=k, selection="matching_pursuit")


def _trained(given: Namespace, k: int, tokens: int) -> TrainConfig:
    config = replace(
        ONE_CODE if k == 1 else TrainConfig(), centroid_refits=given.centroid_refits if tokens else 0
    ).for_codes(k)
    if _before(tokens):
        return replace(config, precision=LONG_PRECISION, lr=config.lr / 2)
    if tokens >= TEXT:
        return replace(config, precision=LONG_PRECISION, epochs=-(-tokens // TEXT))
    return config


def _path(given: Namespace, k: int, tokens: int) -> Path:
    return OUT / f"{_name(given, k, tokens)}.json"


def _name(given: Namespace, k: int, tokens: int) -> str:
    return f"{_kind(given, k)}-{tokens}" + (
        f"-refit{given.centroid_refits}" if given.centroid_refits and tokens else ""
    )


def _kind(given: Namespace, k: int) -> str:
    codes = f"-{given.codes}codes" if given.codes != N_CODES else ""
    return f"k{k}{codes}" + (f"-fit{given.fit_tokens}" if given.fit_tokens != FIT_TOKENS else "")


def _settings(given: Namespace, k: int, tokens: int) -> dict:
    return {
        "data": DATA,
        "tokens": tokens,
        "fit_tokens": given.fit_tokens,
        "eval_tokens": EVAL_TOKENS,
        "fit": asdict(_fitted(given, k)),
        "train": asdict(_trained(given, k, tokens)),
        **({"start": _settings(given, k, before)} if (before := _before(tokens)) else {}),
    }


def _read(given: Namespace, k: int, tokens: int) -> dict | None:
    """A row, if it was made in the same way; to show it, as it was made."""
    path = _path(given, k, tokens)
    if given.show:
        return kept(path, {"result": None})["result"]
    return read_record(path, _settings(given, k, tokens), print)


def _costs(results: dict[tuple[int, int], dict]) -> Iterator[tuple]:
    for (k, tokens), result in results.items():
        for spec, part in result.items():
            [row] = [row for row in part["rows"] if row["condition"] == f"codes k={k}"]
            usage = part["usage"][str(k)]
            explained = f"{usage['variance_explained_mean']:.2f}, {usage['variance_explained_min']:.2f}"
            dead = f"{usage['dead_when_fitted']:.0%}"
            yield k, f"{tokens:,}", spec, increase(row), f"{row['kl']:.2f}", explained, dead


def _controls(results: dict[tuple[int, int], dict]) -> Iterator[tuple]:
    for (k, tokens), result in results.items():
        for spec, part in result.items() if tokens == 0 else []:
            for row in part["rows"]:
                if row["condition"] not in ("plain", f"codes k={k}"):
                    yield k, spec, row["condition"], increase(row)


def increase(row: dict) -> str:
    """Of the cross-entropy, with its interval over blocks."""
    return interval(row["ce_increase"], row["ce_increase_low"], row["ce_increase_high"], "+.3f")


if __name__ == "__main__":
    main()
