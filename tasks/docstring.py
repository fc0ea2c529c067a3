"""Docstring completion: which argument of the ``def`` line does the third ``:param`` document?"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from interp.prompts.encoding import Piece, PromptEncoder
from interp.prompts.pairs import Metric, PromptPair, Value
from interp.prompts.sampling import Made, SampledTask, distinct, read_data, require_words, seeded

NAMES_NEEDED = 12  # a method and six arguments, and five more for ``random_random``


class Docstring(SampledTask):
    r"""Heimersheim & Janiak 2023 with the settings of ACDC (Conmy et al. 2023, arXiv 2304.14997).

    ``rest`` style, three matching arguments A, B, C with two others before and one after them in the ``def``
    line, three words describing the method and two each argument; the prompt ends where C is to be
    documented::

        def old(self, first, files, page, names, size, read):
            \"\"\"sector gap population

            :param page: message tree
            :param names: detail mine
            :param

    The prompt starts with a line break, as theirs does. Every argument, method and description word is one
    token, so all prompts of a tokenizer have the same length. The metric is logit(C) - max over the wrong
    answers.

    Wrong answers: every argument name in the ``def`` line and the docstring of the clean prompt other than C
    (five), and every one of the corrupt prompt that is not C or among those already. ACDC puts the names of
    *all* its corruptions there, those that stand in neither prompt included; we leave these out.

    Counterfactuals (ACDC's; new names differ from each other and from all names in the clean prompt):

    - ``random_random`` (default): A, B, C in the ``def`` line and A, B in the docstring become five new
      names.
    - ``random_doc``: A, B in the docstring become two new names.
    - ``random_def``: A, B in the ``def`` line become two new names.
    - ``random_answer``: C in the ``def`` line becomes a new name; nothing else changes.
    - ``random_def_doc``: A, B become the same two new names in both places, so C can still be found.
    - ``random_answer_doc``: C in the ``def`` line and A, B in the docstring become three new names.

    Roles: A_def, B_def, comma (after B), C_def, A_doc, param2 (the ``param`` before B_doc), B_doc, and
    param3, which is the last token and therefore also END.
    """

    name = "docstring"
    metric: Metric = "logit_diff_max"
    roles = ("A_def", "B_def", "comma", "C_def", "A_doc", "param2", "B_doc", "param3", "END")
    counterfactuals = (
        "random_random",
        "random_doc",
        "random_def",
        "random_answer",
        "random_def_doc",
        "random_answer_doc",
    )

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The argument to document, if the documented ones lead to it."""
        argument = variables.get("argument")
        return None if argument is None else (f" {argument}",)

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        data = read_data(self.name)
        names = encoder.words(data["names"])
        require_words(self.name, "argument names", len(names), NAMES_NEEDED)
        # the first description word follows the quotes, so it must be one token without a space as well
        words = [word for word in encoder.words(data["words"]) if len(encoder.continuation('    """', word)) == 1]
        require_words(self.name, "description words", len(words), 3)
        # one corrupt stream for all kinds: they differ only in which of the same new names they use
        clean_stream, corrupt_stream = seeded(self.name, seed), seeded(self.name, seed, "corrupt")

        def draw(_card: None) -> Function:
            return _draw_function(sorted(names), words, clean_stream)

        drawn = distinct(self.name, n, clean_stream, [None], draw)
        pairs = [_build(encoder, names, function, kind, corrupt_stream) for function in drawn]
        dropped = {"names": len(data["names"]) - len(names), "words": len(data["words"]) - len(words)}
        return pairs, dropped, ()


@dataclass(frozen=True)
class Function:
    """The words of one prompt."""

    method: str
    before: tuple[str, ...]
    matching: tuple[str, ...]
    after: str
    documented: tuple[str, ...]
    summary: tuple[str, ...]
    descriptions: tuple[tuple[str, ...], ...]

    def arguments(self) -> list[str]:
        return [*self.before, *self.matching, self.after, *self.documented]

    def variables(self) -> dict[str, Value]:
        """The argument to document, if the documented ones lead to it, and the last documented one."""
        matches = self.documented == self.matching[:2]
        return {"argument": self.matching[2] if matches else None, "documented": self.documented[1]}

    def pieces(self) -> list[Piece]:
        a_def, b_def, c_def = self.matching
        a_doc, b_doc = self.documented
        first, second = (" ".join(description) for description in self.descriptions)
        return [
            (f"\ndef {self.method}(self, {', '.join(self.before)},", None),
            (f" {a_def}", "A_def"),
            (",", None),
            (f" {b_def}", "B_def"),
            (",", "comma"),
            (f" {c_def}", "C_def"),
            (f', {self.after}):\n    """{" ".join(self.summary)}\n\n    :param', None),
            (f" {a_doc}", "A_doc"),
            (f": {first}", None),
            ("\n    :param", "param2"),
            (f" {b_doc}", "B_doc"),
            (f": {second}", None),
            ("\n    :param", "param3"),
        ]


def _draw_function(names: list[str], words: list[str], stream: random.Random) -> Function:
    method, before1, before2, a, b, c, after = stream.sample(names, 7)
    summary, first, second = (tuple(stream.sample(words, count)) for count in (3, 2, 2))
    return Function(method, (before1, before2), (a, b, c), after, (a, b), summary, (first, second))


def _build(
    encoder: PromptEncoder, names: dict[str, int], function: Function, kind: str, stream: random.Random
) -> PromptPair:
    a, b, c = function.matching
    others = sorted(set(names) - {function.method, *function.arguments()})
    new_a, new_b, new_c, other_a, other_b = stream.sample(others, 5)
    matching, documented = {
        "random_random": ((new_a, new_b, new_c), (other_a, other_b)),
        "random_doc": ((a, b, c), (new_a, new_b)),
        "random_def": ((new_a, new_b, c), (a, b)),
        "random_answer": ((a, b, new_c), (a, b)),
        "random_def_doc": ((new_a, new_b, c), (new_a, new_b)),
        "random_answer_doc": ((a, b, new_c), (new_a, new_b)),
    }[kind]
    corrupt = replace(function, matching=matching, documented=documented)
    wrong = dict.fromkeys(name for name in function.arguments() + corrupt.arguments() if name != c)
    return encoder.pair(
        function.pieces(),
        corrupt.pieces(),
        answers=[names[c]],
        wrong_answers=[names[name] for name in wrong],
        variables=(function.variables(), corrupt.variables()),
    )
