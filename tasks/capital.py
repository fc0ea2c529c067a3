"""Factual recall: "Anna was born in the capital of France, the city of" -> " Paris"."""

import random
from functools import partial

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Metric, PromptPairs
from interp.prompts.sampling import (
    check_request,
    collect,
    dealt,
    draw_unseen,
    fill,
    read_data,
    require_words,
    seeded,
)


class Capital:
    """The capital of a country, a fact that stands nowhere in the prompt.

    The relation and the way of asking follow the country–capital prompts of Hernandez et al. 2023 (arXiv 2308.09124);
    seven templates and the names of the people in them are our own. The metric is logit(capital) - logit(capital of
    the corrupt prompt's country).

    Counterfactual ``country``: another country.

    Roles: country, END.
    """

    name = "capital"
    metric: Metric = "logit_diff"
    roles = ("country", "END")
    counterfactuals = ("country",)
    default_n = 100

    def sample(
        self, tokenizer, n: int, seed: int = 0, counterfactual: str | None = None, *, bos: bool = True
    ) -> PromptPairs:
        """Return ``n`` distinct pairs, a pure function of the arguments.

        Raises:
            InputError: bad ``n`` or counterfactual, too few single-token words, or no more distinct prompts.
        """
        kind = check_request(self, n, counterfactual)
        data = read_data(self.name)
        encoder = PromptEncoder(tokenizer, bos)
        all_capitals = data["capitals"]
        countries, cities = encoder.words(all_capitals), encoder.words(all_capitals.values())
        capitals = {c: cities[city] for c, city in all_capitals.items() if c in countries and city in cities}
        require_words(self.name, "countries with capitals", len(capitals), 2)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)
        deck = dealt(range(len(data["templates"])), stream)
        seen: set[tuple[int, str, str]] = set()
        pairs = []
        for _ in range(n):
            draw = partial(_draw, next(deck), list(capitals), data["names"], stream)
            index, country, person = draw_unseen(self.name, draw, seen)
            other = corrupt_stream.choice([c for c in capitals if c != country])
            clean, corrupt = (
                fill(data["templates"][index], {"country": c, "name": person}, self.roles)
                for c in (country, other)
            )
            pairs.append(
                encoder.pair(
                    clean,
                    corrupt,
                    answers=[capitals[country]],
                    wrong_answers=[capitals[other]],
                    template=str(index + 1),
                    variables=({"country": country}, {"country": other}),
                )
            )
        return collect(self, pairs, kind, seed, bos, {"countries": len(all_capitals) - len(capitals)})


def _draw(index: int, countries: list[str], people: list[str], stream: random.Random) -> tuple[int, str, str]:
    return index, stream.choice(countries), stream.choice(people)
