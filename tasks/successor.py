"""Succession: "The list that Anna wrote: March, April, May," -> " June"."""

import random
from functools import partial

from interp.prompts.encoding import PromptEncoder
from interp.prompts.sampling import (
    Made,
    SampledTask,
    dealt,
    draw_unseen,
    fill,
    read_data,
    require_words,
    seeded,
)

SHOWN = 3
"""Members of the sequence in the prompt."""


class Successor(SampledTask):
    """What comes next in a sequence everybody knows: number words, months, days, letters, ordinals.

    Gould et al. 2023 (arXiv 2312.09230) found "successor heads" on such sequences; Lan et al. 2023 (arXiv 2311.04131)
    compare the circuits of several. The metric is logit(next) - logit(what is next in the corrupt prompt).

    Counterfactual ``stretch``: another stretch of the same sequence, which continues otherwise.

    Roles: first, second, last (the members shown), END.
    """

    name = "successor"
    roles = ("first", "second", "last", "END")
    counterfactuals = ("stretch",)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        ids = [(encoder.words(sequence), len(sequence)) for sequence in data["sequences"]]
        # a gap in a sequence would make what comes next wrong
        whole = [words for words, length in ids if len(words) == length]
        require_words(self.name, "whole sequences", len(whole), 1)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)
        deck = dealt([(i, k) for i in range(len(data["templates"])) for k in range(len(whole))], stream)
        seen: set[tuple[int, int, int, str]] = set()
        pairs = []
        for _ in range(n):
            template, sequence = next(deck)
            words = list(whole[sequence])
            starts = range(len(words) - SHOWN)
            draw = partial(_draw, template, sequence, starts, data["names"], stream)
            _, _, start, person = draw_unseen(self.name, draw, seen)
            other = corrupt_stream.choice([s for s in starts if s != start])
            clean, corrupt = (
                fill(
                    data["templates"][template],
                    {"name": person, **dict(zip(self.roles, words[begin : begin + SHOWN], strict=False))},
                    self.roles,
                )
                for begin in (start, other)
            )
            pairs.append(
                encoder.pair(
                    clean,
                    corrupt,
                    answers=[whole[sequence][words[start + SHOWN]]],
                    wrong_answers=[whole[sequence][words[other + SHOWN]]],
                    template=f"{words[0]}-{template + 1}",
                    variables=(
                        {"sequence": words[0], "last": words[start + SHOWN - 1]},
                        {"sequence": words[0], "last": words[other + SHOWN - 1]},
                    ),
                )
            )
        return pairs, {"sequences": len(ids) - len(whole)}, ()


def _draw(
    template: int, sequence: int, starts: range, people: list[str], stream: random.Random
) -> tuple[int, int, int, str]:
    return template, sequence, stream.choice(starts), stream.choice(people)
