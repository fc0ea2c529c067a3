"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" -> " Mary"."""

import random
import re
from functools import partial

from interp.prompts.encoding import Piece, PromptEncoder
from interp.prompts.pairs import PromptPair, Value
from interp.prompts.sampling import Made, SampledTask, dealt, draw_unseen, read_data, require_words, seeded

NAMES_NEEDED = 5
"""IO and S and three more for ``abc``."""


class IOI(SampledTask):
    """Wang et al. 2022 (arXiv 2211.00593), 15 templates in both orders of the names.

    ``ABBA`` names the indirect object first ("Mary and John ... John"), ``BABA`` the subject first
    ("John and Mary ... John"). Every run of 30 pairs holds each template once in each order.
    The metric is logit(IO) - logit(S) after the last token, " to".

    Counterfactuals, all of the same length as the clean prompt:

    - ``abc`` (default): IO, S1 and S2 become three different names, none of them IO or S (Wang et al.; ACDC's
      corrupted data). No name is repeated, so the duplication signal goes too; the metric is near 0.
    - ``s2_io``: S2 becomes the IO name, so that S is now the right answer (MIB's ``s2_io_flip``). The set of
      names stays; only which of them is repeated changes. The metric is near minus the clean one.
    - ``oneill``: S1 becomes the IO name and IO a new name; S2 stays. Three different names and no right
      answer (O'Neill & Bui 2024, arXiv 2405.12522).

    Roles: IO, S1, S1+1 (the token after S1, where previous-token heads act), S2, END.
    """

    name = "ioi"
    roles = ("IO", "S1", "S1+1", "S2", "END")
    counterfactuals = ("abc", "s2_io", "oneill")

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        names = encoder.words(data["names"])
        require_words(self.name, "names", len(names), NAMES_NEEDED)
        clean_stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)
        cards = [(order, i) for order in ("ABBA", "BABA") for i in range(len(data["templates"]))]
        deck = dealt(cards, clean_stream)
        seen: set[tuple[str, ...]] = set()
        pairs = []
        for _ in range(n):
            order, index = next(deck)
            draw = partial(_draw_scene, data, index, order, sorted(names), clean_stream)
            scene, _, io, subject = draw_unseen(self.name, draw, seen)
            template = f"{order}-{index + 1}"
            pairs.append(_build(encoder, names, scene, order, io, subject, kind, corrupt_stream, template))
        return pairs, {"names": len(data["names"]) - len(names)}, ()


def _draw_scene(
    data: dict, index: int, order: str, names: list[str], stream: random.Random
) -> tuple[str, str, str, str]:
    """A template with place and object filled in, the order of the names, the IO and the S."""
    io, subject = stream.sample(names, 2)
    scene = data["templates"][index]
    scene = scene.replace("{place}", stream.choice(data["places"]))
    scene = scene.replace("{object}", stream.choice(data["objects"]))
    return scene, order, io, subject


def _build(
    encoder: PromptEncoder,
    names: dict[str, int],
    scene: str,
    order: str,
    io: str,
    subject: str,
    kind: str,
    stream: random.Random,
    template: str,
) -> PromptPair:
    others = sorted(set(names) - {io, subject})
    if kind == "abc":
        corrupt_io, corrupt_s1, corrupt_s2 = stream.sample(others, 3)
    elif kind == "s2_io":
        corrupt_io, corrupt_s1, corrupt_s2 = io, subject, io
    else:
        corrupt_io, corrupt_s1, corrupt_s2 = stream.choice(others), io, subject
    return encoder.pair(
        _pieces(scene, order, io, subject, subject),
        _pieces(scene, order, corrupt_io, corrupt_s1, corrupt_s2),
        answers=[names[io]],
        wrong_answers=[names[subject]],
        template=template,
        variables=(
            _variables(order, io, subject, subject, template),
            _variables(order, corrupt_io, corrupt_s1, corrupt_s2, template),
        ),
    )


def _variables(order: str, io: str, s1: str, s2: str, template: str) -> dict[str, Value]:
    """S is the name that is repeated; where it stood first counts, whichever name it is."""
    s1_first = order == "BABA"
    stood = {s1: s1_first, io: not s1_first}.get(s2)
    return {
        "IO": io if s2 == s1 else s1 if s2 == io else None,
        "S": None if stood is None else s2,
        "order": None if stood is None else "S first" if stood else "S second",
        "template": template.partition("-")[2],
    }


def _pieces(scene: str, order: str, io: str, s1: str, s2: str) -> list[Piece]:
    """The prompt word by word: every word with the space before it."""
    first, second = ("IO", "S1") if order == "ABBA" else ("S1", "IO")
    roles = {" {first}": first, " {second}": second, " {subject}": "S2"}
    names = {"IO": io, "S1": s1, "S2": s2}
    pieces: list[Piece] = []
    for word in re.findall(r" ?[^ ]+", scene):
        role = roles.get(word)
        if role:
            pieces.append((" " + names[role], role))
        else:
            after_s1 = bool(pieces) and pieces[-1][1] == "S1"
            pieces.append((word, "S1+1" if after_s1 else None))
    return pieces
