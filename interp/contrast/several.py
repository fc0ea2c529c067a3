"""One prompt against several: what holds of each comparison holds better."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from interp.contrast.explain import explain
from interp.contrast.explanation import Why
from interp.contrast.prompts import token_text
from interp.errors import InputError
from interp.models import Model
from interp.progress import Stage, silent
from interp.stats import mean_interval

MOST = 12  # nodes that are told of


@dataclass(frozen=True)
class MeanNode:
    """A head at a token of A, as in :class:`~interp.contrast.explanation.WhyNode`.

    ``share``: of the difference, its effect in the mean over prompts B; ``low``, ``high``: a bootstrap interval over
    them, equal to the mean where there is one. ``kept_in``: in how many explanations it is among the kept.
    """

    site: str
    position: int
    token: str
    share: float
    low: float
    high: float
    kept_in: int


@dataclass(frozen=True)
class Several:
    explanations: list[Why]  # one a prompt B
    nodes: list[MeanNode]  # all that some explanation keeps, the largest mean share first

    def as_json(self) -> dict[str, Any]:
        return {
            "a": self.explanations[0].a,
            "nodes": [asdict(node) for node in self.nodes],
            "explanations": [explanation.as_json() for explanation in self.explanations],
        }

    def text(self) -> str:
        lines = [f"A {self.explanations[0].a!r:.90}"]
        for explanation in self.explanations:
            kept = explanation.alone_kept
            a, b = (repr(explanation.answers[name]["token"]) for name in ("answer", "instead"))
            restored = f"{kept.nodes} nodes restore {kept.restored:z.0%}"
            lines.append(f"  B {explanation.b!r:.60}: {a} less {b}, {restored}")
        lines += ["", f"{'share of the difference, mean':<34}{'interval':>16}{'kept in':>10}"]
        for node in self.nodes[:MOST]:
            name = f"  {node.site} @ {node.token!r} {node.position}"
            lines.append(
                f"{name:<28}{node.share:>z6.0%}{f'{node.low:z.0%} to {node.high:z.0%}':>16}"
                f"{f'{node.kept_in} of {len(self.explanations)}':>10}"
            )
        return "\n".join(lines)


def why_several(
    model: Model,
    a: str,
    others: Sequence[str],
    *,
    answer: str | None = None,
    instead: str | None = None,
    chat: bool = False,
    stage: Stage = silent,
) -> Several:
    """:func:`~interp.contrast.explain.why` against each of some prompts, and the mean effect of every node.
    :class:`InputError`: no prompts, or one of them cannot be compared."""
    if isinstance(others, str) or not others:
        raise InputError(f"prompts {others!r:.40}: give a list of prompts to compare with")
    explained = [explain(model, a, b, answer=answer, instead=instead, chat=chat, stage=stage) for b in others]
    explanations, contexts = [why for why, _ in explained], [context for _, context in explained]
    kept_in = Counter(
        (node.site, node.position) for explanation in explanations for node in explanation.nodes[: explanation.kept]
    )
    nodes = sorted(
        {
            node
            for context in contexts
            for node in context.nodes(np.flatnonzero(~context.arms([[]])[0]))
            if (str(node.site), node.position) in kept_in
        }
    )
    shares = np.stack([context.node_effects(nodes)[0] / np.subtract(*context.difference) for context in contexts])
    low, high = mean_interval(shares, 0) if len(contexts) > 1 else (shares[0], shares[0])
    means = []
    for row, node in enumerate(nodes):
        place = str(node.site), node.position
        token = token_text(model, contexts[0].pairs[0].clean_tokens[node.position])
        numbers = float(shares[:, row].mean()), float(low[row]), float(high[row])
        means.append(MeanNode(*place, token, *numbers, kept_in[place]))
    return Several(explanations, sorted(means, key=lambda node: -abs(node.share)))
