"""A relation given by two examples: "The list: big -> small, up -> down, hot ->" -> " cold", not " hot"."""

from collections.abc import Mapping

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Value
from interp.prompts.sampling import Made, SampledTask, distinct, fill, read_data, require_words, seeded


class Antonym(SampledTask):
    """In-context learning: the examples say whether the opposite is asked for (the antonym task of Todd et al. 2023,
    "Function Vectors in Large Language Models", arXiv 2310.15213, with two examples and a counterfactual of our own).

    Two examples and a query in one of six frames. The metric is logit(opposite of the query) - logit(the query).

    Counterfactuals, all of the same length as the clean prompt:

    - ``relation`` (default): each example repeats its word ("big -> big"), so that the query itself is right. The query
      stays; only what is asked about it changes.
    - ``query``: the query becomes another word. The metric stays the clean prompt's.

    Roles: from1, to1, from2, to2 (the examples), query, END.
    """

    name = "antonym"
    roles = ("from1", "to1", "from2", "to2", "query", "END")
    counterfactuals = ("relation", "query")

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The opposite of the query, or where the examples repeat their word the query."""
        opposites = read_data(self.name)["opposites"]
        other = dict([*opposites, *(words[::-1] for words in opposites)])
        query = variables.get("query")
        if query not in other or variables.get("relation") not in ("opposite", "same"):
            return None
        return (f" {query if variables['relation'] == 'same' else other[query]}",)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        known = encoder.words(word for words in data["opposites"] for word in words)
        opposites = [tuple(words) for words in data["opposites"] if all(word in known for word in words)]
        require_words(self.name, "pairs of opposites", len(opposites), 4)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)

        def draw(index: int) -> tuple[int, tuple]:
            """Template, and two examples and a query, each in a direction of its own."""
            chosen = stream.sample(opposites, 3)
            return index, tuple(words if stream.random() < 0.5 else words[::-1] for words in chosen)

        pairs = []
        for index, chosen in distinct(self.name, n, stream, range(len(data["templates"])), draw):
            (from1, to1), (from2, to2), (query, answer) = chosen
            clean = {"from1": from1, "to1": to1, "from2": from2, "to2": to2, "query": query}
            if kind == "relation":
                corrupt = {**clean, "to1": from1, "to2": from2}
            else:
                used = {frozenset(words) for words in chosen}
                others = [words for words in opposites if frozenset(words) not in used]
                corrupt = {**clean, "query": corrupt_stream.choice(others)[0]}
            pairs.append(
                encoder.pair(
                    fill(data["templates"][index], clean, self.roles),
                    fill(data["templates"][index], corrupt, self.roles),
                    answers=[known[answer]],
                    wrong_answers=[known[query]],
                    template=str(index + 1),
                    variables=(
                        {"relation": "opposite", "query": query},
                        {"relation": "same" if kind == "relation" else "opposite", "query": corrupt["query"]},
                    ),
                )
            )
        return pairs, {"opposites": len(data["opposites"]) - len(opposites)}, ()
