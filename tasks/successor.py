"""Succession: "The list that Anna wrote: March, April, May," -> " June"."""

from collections.abc import Mapping

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Value
from interp.prompts.sampling import Made, SampledTask, distinct, fill, read_data, require_words, seeded

SHOWN = 3  # members of the sequence in the prompt


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

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """What comes after the last member shown."""
        for words in read_data(self.name)["sequences"]:
            if words[0] == variables.get("sequence") and variables.get("last") in words[:-1]:
                return (f" {words[words.index(variables['last']) + 1]}",)
        return None

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        ids = [(encoder.words(sequence), len(sequence)) for sequence in data["sequences"]]
        # a gap in a sequence would make what comes next wrong
        whole = [words for words, length in ids if len(words) == length]
        require_words(self.name, "whole sequences", len(whole), 1)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)

        def draw(card: tuple[int, int]) -> tuple[int, int, int, str]:
            template, sequence = card
            start = stream.choice(range(len(whole[sequence]) - SHOWN))
            return template, sequence, start, stream.choice(data["names"])

        cards = [(i, k) for i in range(len(data["templates"])) for k in range(len(whole))]
        pairs = []
        for template, sequence, start, person in distinct(self.name, n, stream, cards, draw):
            words = list(whole[sequence])
            other = corrupt_stream.choice([s for s in range(len(words) - SHOWN) if s != start])
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
