"""Do the codes that bring a topic about also tell of it? Of the seven topics' codes that come with the package.

    python -m benchmarks.steering_codes

Nothing is run: verdicts are of the texts that did not choose (``interp/steering/find.py``). *By chance* is the share
that the test itself would pass at p ≤ .05, given in how many texts each code fires; the test is discrete, so that it is
mostly far less. Where that number is not kept, as the code fires in no positive text, .05 is taken: a bound from above.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import hypergeom

from benchmarks.common import print_table
from interp import Codebooks, load_model
from interp.steering import CodeSet, FoundCode, Verdict, load_topic, topic_names
from interp.steering.cache import identity, recall, request_key
from interp.steering.find import RANKINGS

LEVEL, FIRST = 0.05, 20


def main() -> None:
    model = load_model()
    made_with = identity(model, Codebooks.from_pretrained("smollm2-135m-instruct-k1", model))
    table: list[tuple] = []
    groups: dict[str, list[tuple[CodeSet, FoundCode]]] = {f"first {FIRST}": [], "others": []}
    for name in topic_names():
        topic = load_topic(name)
        found = recall(None, request_key(made_with, topic.positive, topic.negative, RANKINGS[0], 0))
        if found is None:
            raise SystemExit(f"no codes of {name} come with the package: run benchmarks/steering_presets.py")
        total = sum(code.effect for code in found.codes)
        lower = sum(code.effect < 0 for code in found.codes)
        for group, codes in zip(groups, (found.codes[:FIRST], found.codes[FIRST:]), strict=True):
            rows = [(found, code) for code in codes]
            groups[group] += rows
            share = sum(code.effect for code in codes) / total
            table.append((name, len(found), lower, group, f"{share:.0%}", *_cells(rows, total)))
    for group, rows in groups.items():
        table.append(("all", len(rows), None, group, None, *_cells(rows, None)))
    columns = ("topic", "codes", "lower the target", "", "net effect", "judged", f"p ≤ {LEVEL}")
    more = ("by chance, at most", f"q ≤ {LEVEL}", "their net effect", "fire in none")
    print_table((*columns, *more), table)


def _cells(rows: Sequence[tuple[CodeSet, FoundCode]], total: float | None) -> list[str]:
    judged = [(found, code) for found, code in rows if code.verdict is not None]
    sure = [code for _, code in judged if code.verdict.q_value <= LEVEL]
    passed = sum(code.verdict.p_value <= LEVEL for _, code in judged)
    chance = sum(_chance(found, code.verdict) for found, code in judged)
    return [
        str(len(judged)),
        f"{passed} ({passed / len(judged):.1%})",
        f"{chance / len(judged):.1%}",
        str(len(sure)),
        "" if total is None else f"{sum(code.effect for code in sure) / total:.0%}",
        str(sum(code.verdict.precision is None for _, code in judged)),
    ]


def _chance(found: CodeSet, verdict: Verdict) -> float:
    """The chance that a code which fires in as many judging texts passes, whichever of them are positive."""
    if verdict.precision is None:
        return 0.0
    positive, negative = found.n_positive // 2, found.n_negative // 2
    hits = round(verdict.recall * positive)
    if hits == 0:
        return LEVEL
    test = hypergeom(positive + negative, positive, round(hits / verdict.precision))
    possible = np.arange(positive + 1)
    return float(test.pmf(possible[test.sf(possible - 1) <= LEVEL]).sum())


if __name__ == "__main__":
    main()
