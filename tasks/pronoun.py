"""Gendered pronouns: "I met Anna at the museum, and" -> " she", not " he"."""

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

PRONOUNS = {"female": "she", "male": "he"}


class Pronoun:
    """The pronoun that fits a name (the task of Mathwin et al. 2023, "Identifying a preliminary circuit for predicting
    gendered pronouns in GPT-2 small", with templates of our own).

    Ten templates, each with names of both kinds, so that the answers are balanced. Names are those that are usually
    given to one sex. The metric is logit(right pronoun) - logit(the other).

    Counterfactual ``gender``: the name becomes one of the other kind, so that the wrong pronoun is right.

    Roles: name, END.
    """

    name = "pronoun"
    metric: Metric = "logit_diff"
    roles = ("name", "END")
    counterfactuals = ("gender",)
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
        names = {gender: list(encoder.words(data[gender])) for gender in PRONOUNS}
        pronouns = encoder.words(PRONOUNS.values())
        for gender in PRONOUNS:
            require_words(self.name, f"{gender} names", len(names[gender]), 1)
        require_words(self.name, "pronouns", len(pronouns), 2)
        stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)
        deck = dealt([(gender, i) for gender in PRONOUNS for i in range(len(data["templates"]))], stream)
        seen: set[tuple[str, str]] = set()
        pairs = []
        for _ in range(n):
            gender, index = next(deck)
            other = "male" if gender == "female" else "female"
            draw = partial(_draw, data, data["templates"][index], names[gender], stream)
            scene, name = draw_unseen(self.name, draw, seen)
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
        return collect(self, pairs, kind, seed, bos, dropped)


def _draw(data: dict, template: str, names: list[str], stream: random.Random) -> tuple[str, str]:
    """The template with job and place filled in, and the name."""
    scene = template.replace("{job}", stream.choice(data["jobs"]))
    return scene.replace("{place}", stream.choice(data["places"])), stream.choice(names)
