"""Subject–verb agreement: "I think that the keys near the cabinet" -> " are", not " is"."""

from collections.abc import Mapping

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import Value
from interp.prompts.sampling import Made, SampledTask, distinct, fill, read_data, require_words, seeded

NUMBERS = ("singular", "plural")


class Agreement(SampledTask):
    """The verb must agree with the subject across a nearer noun, the attractor (Linzen et al. 2016, arXiv 1611.01368).

    Ten openings, so that a verb is likely to come next; each with singular and plural subjects. The attractor's number
    is drawn apart: in half of the prompts it is the other one. Answers are the forms of the subject's number among is,
    was, has and are, were, have; wrong are those of the other number. The metric is the difference of the mean logits.

    Counterfactuals, all of the same length as the clean prompt:

    - ``number`` (default): the subject's number changes, so that the wrong verbs are right.
    - ``both``: the attractor's number changes as well.

    Roles: subject, place (the preposition), attractor and END (the same token).
    """

    name = "agreement"
    roles = ("subject", "place", "attractor", "END")
    counterfactuals = ("number", "both")

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The verbs of the subject's number."""
        verbs = {number: read_data(self.name)[number] for number in NUMBERS}.get(variables.get("number"))
        return None if verbs is None else tuple(f" {verb}" for verb in verbs)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        nouns = [noun for noun in data["nouns"] if len(encoder.words(noun)) == 2]
        places = list(encoder.words(data["places"]))
        verbs = {number: tuple(encoder.words(data[number]).values()) for number in NUMBERS}
        require_words(self.name, "nouns", len(nouns), 2)
        require_words(self.name, "prepositions", len(places), 1)
        for number in NUMBERS:
            require_words(self.name, f"{number} verbs", len(verbs[number]), 1)
        stream = seeded(self.name, seed)

        def draw(card: tuple[int, int]) -> tuple:
            """The subject's number, template, subject and attractor in both numbers, the attractor's number, place."""
            subject, attractor = stream.sample(nouns, 2)
            return *card, tuple(subject), tuple(attractor), stream.randrange(2), stream.choice(places)

        cards = [(number, i) for number in (0, 1) for i in range(len(data["templates"]))]
        pairs = []
        for number, index, subject, attractor, near, place in distinct(self.name, n, stream, cards, draw):
            sides = ((number, near), (1 - number, near if kind == "number" else 1 - near))
            prompts, variables = [], []
            for at_subject, at_attractor in sides:
                words = {"subject": subject[at_subject], "place": place, "attractor": attractor[at_attractor]}
                prompts.append(fill(data["templates"][index], words, self.roles))
                numbers = {"number": NUMBERS[at_subject], "attractor": NUMBERS[at_attractor]}
                variables.append({**numbers, "subject": subject[0], "place": place})
            pairs.append(
                encoder.pair(
                    *prompts,
                    answers=verbs[NUMBERS[number]],
                    wrong_answers=verbs[NUMBERS[1 - number]],
                    template=f"{NUMBERS[number]}-{index + 1}",
                    variables=tuple(variables),
                )
            )
        dropped = {
            "nouns": len(data["nouns"]) - len(nouns),
            "prepositions": len(data["places"]) - len(places),
            "verbs": sum(len(data[number]) - len(verbs[number]) for number in NUMBERS),
        }
        return pairs, dropped, ()
