"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" -> " Mary"."""

import re
from collections.abc import Mapping

from interp.prompts.encoding import Piece, PromptEncoder
from interp.prompts.pairs import Value
from interp.prompts.sampling import Made, SampledTask, distinct, names_told, read_data, require_words, seeded

NAMES_NEEDED = 5  # IO and S and three more for ``abc``


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

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The name mentioned once, where one of two is repeated."""
        io = variables.get("IO")
        return None if io is None else (f" {io}",)

    def after(self, variables: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, Value]:
        """Variables once some are set: where *order* alone changes, the other name is the repeated one."""
        changed = {**variables, **values}
        if not {"IO", "S"} & {*values} and changed["order"] != variables["order"]:
            changed |= {"IO": variables["S"], "S": variables["IO"]}
        return changed

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        names = encoder.words(data["names"])
        require_words(self.name, "names", len(names), NAMES_NEEDED)
        clean_stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, kind)

        def draw(card: tuple[str, int]) -> tuple[str, str, str, str, str]:
            """Order of the names, number of the template, the template with place and object filled in, IO, S."""
            order, index = card
            io, subject = clean_stream.sample(sorted(names), 2)
            scene = data["templates"][index].replace("{place}", clean_stream.choice(data["places"]))
            scene = scene.replace("{object}", clean_stream.choice(data["objects"]))
            return order, str(index + 1), scene, io, subject

        cards = [(order, i) for order in ("ABBA", "BABA") for i in range(len(data["templates"]))]
        pairs = []
        for order, number, scene, io, subject in distinct(self.name, n, clean_stream, cards, draw):
            others = sorted(set(names) - {io, subject})
            if kind == "abc":
                corrupt_names = tuple(corrupt_stream.sample(others, 3))
            elif kind == "s2_io":
                corrupt_names = (io, subject, io)
            else:
                corrupt_names = (corrupt_stream.choice(others), io, subject)
            sides = ((io, subject, subject), corrupt_names)
            clean, corrupt = (_pieces(scene, order, *side) for side in sides)
            told_of_clean, told_of_corrupt = (
                names_told(*side, s1_first=order == "BABA") | {"template": number} for side in sides
            )
            pairs.append(
                encoder.pair(
                    clean,
                    corrupt,
                    answers=[names[io]],
                    wrong_answers=[names[subject]],
                    template=f"{order}-{number}",
                    variables=(told_of_clean, told_of_corrupt),
                )
            )
        return pairs, {"names": len(data["names"]) - len(names)}, ()


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
