"""Do the codes that bring a topic about also tell of it? Of the seven topics' codes that come with the package.

    python -m benchmarks.steering_codes

Nothing is run: verdicts are of the texts that did not choose (``interp/steering/find.py``). *By chance* is the share
that the test itself would pass at p ≤ .05, given in how many texts each code fires; the test is discrete, so that it is
mostly far less. Where that number is not kept, as the code fires in no positive text, .05 is taken: a bound from above.
"""

import numpy as np
from scipy.stats import hypergeom

from benchmarks.common import print_table
from interp import Codebooks, load_model
from interp.steering import CodeSet, Verdict, load_topic, topic_names
from interp.steering.cache import identity, recall, request_key
from interp.steering.find import RANKINGS

LEVEL, FIRST = 0.05, 20


def main() -> None:
    model = load_model()
    made_with = identity(model, Codebooks.from_pretrained("smollm2-135m-instruct-k1", model))
    rows: list[tuple] = []
    for name in topic_names():
        topic = load_topic(name)
        code_set = recall(None, request_key(made_with, topic.positive, topic.negative, RANKINGS[0], 0))
        if code_set is None:
            raise SystemExit(f"no codes of {name} come with the package: run benchmarks/steering_presets.py")
        judged = [code.verdict for code in code_set.codes[:FIRST] if code.verdict is not None]
        passed = sum(verdict.p_value <= LEVEL for verdict in judged)
        rows.append((name, FIRST, len(judged), passed, sum(_chance(code_set, verdict) for verdict in judged)))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    cells = [(*row[:-1], f"{row[-1] / row[2]:.1%}") for row in rows]
    print_table(("topic", "codes", "judged", f"p ≤ {LEVEL}", "by chance, at most"), cells)


def _chance(code_set: CodeSet, verdict: Verdict) -> float:
    """The chance that a code which fires in as many judging texts passes, whichever of them are positive."""
    if verdict.precision is None:
        return 0.0
    positive, negative = code_set.n_positive // 2, code_set.n_negative // 2
    hits = round(verdict.recall * positive)
    if hits == 0:
        return LEVEL
    test = hypergeom(positive + negative, positive, round(hits / verdict.precision))
    possible = np.arange(positive + 1)
    return float(test.pmf(possible[test.sf(possible - 1) <= LEVEL]).sum())


if __name__ == "__main__":
    main()
