"""Explanations of any shape, made of random numbers and of tokens that try to be markup."""

import numpy as np

from interp.contrast.explanation import Alone, Arrow, Why, WhyNode, WithMlps

EVIL = (
    *("<script>alert(1)</script>", "\"'&<", " ]]>", "\x07\u202e", "\n\n  ", " \u4e16\u754c"),
    *("{0} %s", "</title>", " \ufffd", "<!--", " Mary", "\\"),
)


def make_why(n_tokens: int = 12, n_nodes: int = 9, *, longer: int = 0, mlps: bool = False, seed: int = 0) -> Why:
    """Half of the nodes are kept, every third pair of nodes that can has an arrow; B is longer by some tokens."""
    rng = np.random.default_rng(seed)
    tokens = [EVIL[i % len(EVIL)] for i in range(n_tokens)]
    tokens_b = [*tokens[:2], *[" extra"] * longer, " other", *tokens[3:]]
    nodes = list[WhyNode]()
    for i in range(n_nodes):
        position = int(rng.integers(2, n_tokens)) if i % 2 else n_tokens - 1
        head = not (mlps and i % 4 == 3)
        site = f"a{rng.integers(6)}.h{i}" if head else f"m{rng.integers(6)}"
        looks = [(tokens[j], j, 0.6) for j in rng.integers(0, position + 1, 2).tolist()] if head else []
        code = {"a": 1, "b": 2, "name_a": EVIL[0], "name_b": ""} if i % 2 else None
        words = [EVIL[0], EVIL[1]] if i % 3 else None
        at = site, position, tokens[position]
        nodes.append(WhyNode(*at, float(rng.normal() * 3), 0.1, looks, words, words, code))
    layer = [int(node.site[1]) for node in nodes]
    pairs = [(u, v) for u in range(n_nodes) for v in range(n_nodes) if layer[u] < layer[v]][::3]
    arrows = [Arrow(u, v, *rng.normal(size=2).tolist()) for u, v in pairs]
    answer, instead = ({"token": EVIL[i], "id": i + 3, "a": 0.7 - 0.5 * i, "b": 0.2 + 0.5 * i} for i in (0, 1))
    alone = [Alone(n, 0.4 * n, 0.3 * n) for n in (1, 2, max(n_nodes // 2, 1))]
    return Why(
        model=EVIL[0],
        chat=False,
        a=EVIL[0],
        b=EVIL[7],
        tokens=tokens,
        tokens_b=tokens_b,
        answers={"answer": answer, "instead": instead, "uncovered": 0.1},
        difference={"a": 2.0, "b": -1.0},
        nodes=nodes,
        kept=n_nodes // 2,
        arrows=arrows,
        alone=alone,
        alone_with_mlps=alone if mlps else None,
        with_mlps=WithMlps(nodes, 1, True) if mlps else None,
        controls={"at random": alone, "all heads at END": [Alone(40, 0.7, 0.6)]},
        needed=0.9,
        sparse=bool(seed % 2),
        left=0.1,
        notes=[EVIL[0]],
        seconds={},
    )
