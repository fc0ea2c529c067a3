"""Subject–verb agreement: "I think that the keys near the cabinet" -> " are", not " is"."""

import random
from functools import partial

from interp.prompts.encoding import PromptEncoder
from interp.prompts.pairs import PromptPair, Value
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
        deck = dealt([(number, i) for number in (0, 1) for i in range(len(data["templates"]))], stream)
        seen: set = set()
        pairs = []
        for _ in range(n):
            draw = partial(_draw, *next(deck), nouns, places, stream)
            pairs.append(_build(encoder, data["templates"], verbs, draw_unseen(self.name, draw, seen), kind))
        dropped = {
            "nouns": len(data["nouns"]) - len(nouns),
            "prepositions": len(data["places"]) - len(places),
            "verbs": sum(len(data[number]) - len(verbs[number]) for number in NUMBERS),
        }
        return pairs, dropped, ()


def _draw(number: int, template: int, nouns: list, places: list[str], stream: random.Random) -> tuple:
    """Subject's number, template, subject and attractor in both numbers, the attractor's number, preposition."""
    subject, attractor = stream.sample(nouns, 2)
    return number, template, tuple(subject), tuple(attractor), stream.randrange(2), stream.choice(places)


def _build(encoder: PromptEncoder, templates: list[str], verbs: dict, drawn: tuple, kind: str) -> PromptPair:
    number, template, subject, attractor, attractor_number, place = drawn

    def pieces(number: int, attractor_number: int):
        words = {"subject": subject[number], "place": place, "attractor": attractor[attractor_number]}
        return fill(templates[template], words, Agreement.roles)

    def said(number: int, attractor_number: int) -> dict[str, Value]:
        return {
            "number": NUMBERS[number],
            "attractor": NUMBERS[attractor_number],
            "subject": subject[0],
            "place": place,
        }

    return encoder.pair(
        pieces(number, attractor_number),
        pieces(1 - number, attractor_number if kind == "number" else 1 - attractor_number),
        answers=verbs[NUMBERS[number]],
        wrong_answers=verbs[NUMBERS[1 - number]],
        template=f"{NUMBERS[number]}-{template + 1}",
        variables=(
            said(number, attractor_number),
            said(1 - number, attractor_number if kind == "number" else 1 - attractor_number),
        ),
    )
