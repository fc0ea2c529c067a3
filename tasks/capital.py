"""Factual recall: "Anna was born in the capital of France, the city of" -> " Paris"."""

from collections.abc import Mapping

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Value
from interp.prompts.sampling import Made, SampledTask, distinct, fill, read_data, require_words, seeded


class Capital(SampledTask):
    """The capital of a country, a fact that stands nowhere in the prompt.

    The relation and the way of asking follow the country–capital prompts of Hernandez et al. 2023 (arXiv 2308.09124);
    seven templates and the names of the people in them are our own. The metric is logit(capital) - logit(capital of
    the corrupt prompt's country).

    Counterfactual ``country``: another country.

    Roles: country, END.
    """

    name = "capital"
    roles = ("country", "END")
    counterfactuals = ("country",)

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The capital of the country."""
        capital = read_data(self.name)["capitals"].get(variables.get("country"))
        return None if capital is None else (f" {capital}",)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        all_capitals = data["capitals"]
        countries, cities = encoder.words(all_capitals), encoder.words(all_capitals.values())
        capitals = {c: cities[city] for c, city in all_capitals.items() if c in countries and city in cities}
        require_words(self.name, "countries with capitals", len(capitals), 2)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)

        def draw(index: int) -> tuple[int, str, str]:
            return index, stream.choice(list(capitals)), stream.choice(data["names"])

        pairs = []
        for index, country, person in distinct(self.name, n, stream, range(len(data["templates"])), draw):
            other = corrupt_stream.choice([c for c in capitals if c != country])
            clean, corrupt = (
                fill(data["templates"][index], {"country": c, "name": person}, self.roles) for c in (country, other)
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
        return pairs, {"countries": len(all_capitals) - len(capitals)}, ()
