"""Gendered pronouns: "I met Anna at the museum, and" -> " she", not " he"."""

from collections.abc import Mapping

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Value
from interp.prompts.sampling import Made, SampledTask, distinct, fill, read_data, require_words, seeded

PRONOUNS = {"female": "she", "male": "he"}


class Pronoun(SampledTask):
    """The pronoun that fits a name (the task of Mathwin et al. 2023, "Identifying a preliminary circuit for predicting
    gendered pronouns in GPT-2 small", with templates of our own).

    Ten templates, each with names of both kinds, so that the answers are balanced. Names are those that are usually
    given to one sex. The metric is logit(right pronoun) - logit(the other).

    Counterfactual ``gender``: the name becomes one of the other kind, so that the wrong pronoun is right.

    Roles: name, END.
    """

    name = "pronoun"
    roles = ("name", "END")
    counterfactuals = ("gender",)

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The pronoun of the gender."""
        pronoun = PRONOUNS.get(variables.get("gender"))
        return None if pronoun is None else (f" {pronoun}",)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        names = {gender: list(encoder.words(data[gender])) for gender in PRONOUNS}
        pronouns = encoder.words(PRONOUNS.values())
        for gender in PRONOUNS:
            require_words(self.name, f"{gender} names", len(names[gender]), 1)
        require_words(self.name, "pronouns", len(pronouns), 2)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)

        def draw(card: tuple[str, int]) -> tuple[str, int, str, str]:
            gender, index = card
            scene = data["templates"][index].replace("{job}", stream.choice(data["jobs"]))
            scene = scene.replace("{place}", stream.choice(data["places"]))
            return gender, index, scene, stream.choice(names[gender])

        cards = [(gender, i) for gender in PRONOUNS for i in range(len(data["templates"]))]
        pairs = []
        for gender, index, scene, name in distinct(self.name, n, stream, cards, draw):
            other = "male" if gender == "female" else "female"
            other_name = corrupt_stream.choice(names[other])
            pairs.append(
                encoder.pair(
                    fill(scene, {"name": name}, self.roles),
                    fill(scene, {"name": other_name}, self.roles),
                    answers=[pronouns[PRONOUNS[gender]]],
                    wrong_answers=[pronouns[PRONOUNS[other]]],
                    template=f"{gender}-{index + 1}",
                    variables=({"gender": gender, "name": name}, {"gender": other, "name": other_name}),
                )
            )
        dropped = {"names": sum(len(data[gender]) - len(names[gender]) for gender in PRONOUNS)}
        return pairs, dropped, ()
