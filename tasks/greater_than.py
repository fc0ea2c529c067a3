"""Greater-than: "The war lasted from the year 1732 to the year 17" -> any two digits above 32."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from interp.errors import InputError, TooFewPairs
from interp.prompts.encoding import Piece, PromptEncoder
from interp.prompts.pairs import Metric, PromptPair, Value
from interp.prompts.sampling import Made, SampledTask, read_data, require_words, seeded

CENTURIES = range(11, 18)
LAST_TWO = range(2, 99)
ENDINGS = [f"{ending:02d}" for ending in range(100)]

DIGIT_NOTE = (
    "this tokenizer writes a year digit by digit, so the metric asks for the next digit, the tens digit "
    "of the end year: larger digits are right, smaller ones wrong, the equal digit counts for neither side, "
    "and only years with a tens digit of 1 to 8 are used"
)


class GreaterThan(SampledTask):
    """Hanna et al. 2023 (arXiv 2305.00586): "The NOUN lasted from the year XXYY to the year XX".

    The metric is p(right) - p(wrong) after the last token. Years run over the centuries 11 to 17.

    *Two-digit tokenizers* (GPT-2): a year is used if it splits into XX and YY; the first and the last such
    year of each century are dropped. Right are all two-digit tokens above YY, wrong all from 00 up to YY
    itself. Roles: XX (of the start year), YY, END.

    *Digit tokenizers* (SmolLM2, Llama 2, Qwen): right are the digits above the tens digit of YY, wrong those
    below it; the equal digit counts for neither side, since the ones digit would decide. ``notes`` says so.
    Roles: XX (its second digit), Y1 (tens), Y2 (ones), END.

    Counterfactuals, all of the same length as the clean prompt. ``01`` is the published one; the others are
    easier to tell from the clean prompt and take up the kinds that O'Neill & Bui (2024, arXiv 2405.12522)
    speak of as easier negatives; their data script writes only ``01``, so these definitions are our own:

    - ``01`` (default): YY becomes 01, so that every end year is possible.
    - ``range``: the end century becomes the one before ("1732 to the year 16"): no end year is possible.
    - ``year``: the start year becomes one of another century and with another YY; the end century stays.
    - ``random``: another prompt of the task: another noun, another start year and its century at the end.
    - ``unrelated``: "The" and nouns at random, as many tokens, no year and no grammar.
    - ``copy``: "The NOUN began in the year XXYY, the year XX": the same tokens at the year, but copying YY
      is right.
    """

    name = "greater-than"
    metric: Metric = "prob_diff"
    roles = ("XX", "YY", "Y1", "Y2", "END")
    counterfactuals = ("01", "range", "year", "random", "unrelated", "copy")

    def expected(self, variables: Mapping[str, Value]) -> tuple[str, ...] | None:
        """The endings above the start year's, of two digits. Where a digit is a token, the first digit of an ending is
        asked for, and the start year's own counts for neither side.

        The end of the prompt is no variable, so nothing is said of the kinds ``range`` and ``copy``.
        """
        last_two = f"{variables.get('tens')}{variables.get('ones')}"
        return tuple(ENDINGS[int(last_two) + 1 :]) or None if last_two in ENDINGS else None

    def _make(self, encoder: PromptEncoder, n: int, seed: int, kind: str) -> Made:
        all_nouns = read_data(self.name)["nouns"]
        nouns = sorted(encoder.words(all_nouns))
        require_words(self.name, "nouns", len(nouns), 2)
        years = _read_years(encoder)
        space = [(noun, year) for noun in nouns for year in years.usable]
        if n > len(space):
            raise TooFewPairs(f"n is {n}: this tokenizer leaves greater-than {len(space)} distinct prompts")
        seeded(self.name, seed).shuffle(space)
        stream = seeded(self.name, seed, kind)
        pairs = [_build(encoder, years, nouns, noun, year, kind, stream) for noun, year in space[:n]]
        dropped = {"nouns": len(all_nouns) - len(nouns), "years": years.dropped}
        return pairs, dropped, (DIGIT_NOTE,) if years.digits else ()


@dataclass(frozen=True)
class Years:
    """How a tokenizer writes years."""

    usable: tuple[str, ...]
    dropped: int
    endings: tuple[int, ...]  # token ids of 00 … 99, or of 0 … 9 where ``digits``
    digits: bool

    def answers(self, year: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Right and wrong token ids for a start year."""
        if self.digits:
            tens = int(year[2])
            return self.endings[tens + 1 :], self.endings[:tens]
        last_two = int(year[2:])
        return self.endings[last_two + 1 :], self.endings[: last_two + 1]

    def pieces(self, year: str) -> list[Piece]:
        century, last_two = year[:2], year[2:]
        if self.digits:
            return [(f" {century}", "XX"), (last_two[0], "Y1"), (last_two[1], "Y2")]
        return [(f" {century}", "XX"), (last_two, "YY")]


def _read_years(encoder: PromptEncoder) -> Years:
    by_century = [[f"{century}{last:02d}" for last in LAST_TWO] for century in CENTURIES]
    total = sum(map(len, by_century))
    tokens = {
        year: encoder.continuation("The year", f" {year}")
        for century in by_century
        for year in [century[0][:2] + "01", *century]
    }
    # a digit's id is read off after another digit, where no tokenizer adds a space marker
    digits = [encoder.continuation("The year 1", str(digit)) for digit in range(10)]
    if all(len(ids) == 1 for ids in digits):
        ids = tuple(digit[0] for digit in digits)
        if all(_writes(tokens[year], year, ids) for century in by_century for year in century):
            usable = tuple(year for century in by_century for year in century if year[2] not in "09")
            return Years(usable, total - len(usable), ids, digits=True)
    endings = [encoder.encode(ending) for ending in ENDINGS]
    usable = []
    if all(len(ids) == 1 for ids in endings):
        ids = tuple(ending[0] for ending in endings)
        for century in by_century:
            head = encoder.continuation("The year", f" {century[0][:2]}")
            good = [year for year in century if tokens[year] == (*head, ids[int(year[2:])])]
            # "01" must be writable too, or the corrupt prompt would lose a token
            if len(head) == 1 and tokens[century[0][:2] + "01"] == (*head, ids[1]):
                usable += good[1:-1]
    if not usable:
        ids = encoder.continuation("The year", " 1732")
        example = f"this one writes 1732 in {len(ids)} token{'s' * (len(ids) != 1)} of another kind"
        needs = "a tokenizer that writes a year as two two-digit tokens or one token a digit"
        raise InputError(f"the task greater-than needs {needs}; {example}")
    return Years(tuple(usable), total - len(usable), ids, digits=False)


def _writes(tokens: tuple[int, ...], year: str, digits: tuple[int, ...]) -> bool:
    return tokens[-4:] == tuple(digits[int(digit)] for digit in year)


def _prompt(years: Years, noun: str, year: str, end: str) -> list[Piece]:
    start = [(word, None) for word in ("The", f" {noun}", " lasted", " from", " the", " year")]
    return [*start, *years.pieces(year), (" to", None), (" the", None), (" year", None), (f" {end}", None)]


def _build(
    encoder: PromptEncoder, years: Years, nouns: list[str], noun: str, year: str, kind: str, stream: random.Random
) -> PromptPair:
    century, shown = year[:2], year
    clean = _prompt(years, noun, year, century)
    if kind == "01":
        shown = f"{century}01"
        corrupt = _prompt(years, noun, shown, century)
    elif kind == "range":
        corrupt = _prompt(years, noun, year, str(int(century) - 1))
    elif kind == "year":
        # of years a digit a token the tens are what is asked for
        asked = slice(2, 3) if years.digits else slice(2, 4)
        others = [o for o in years.usable if o[:2] != century and o[asked] != year[asked]]
        if not others:
            raise InputError("this tokenizer leaves greater-than a single century: choose counterfactual 01")
        shown = stream.choice(others)
        corrupt = _prompt(years, noun, shown, century)
    elif kind == "random":
        other = stream.choice([other for other in nouns if other != noun])
        shown = stream.choice([start for start in years.usable if start != year])
        corrupt = _prompt(years, other, shown, shown[:2])
    elif kind == "unrelated":
        shown = ""
        length = len(encoder.place(clean)[0]) - len(encoder.bos)
        corrupt = [("The", None), *((f" {word}", None) for word in stream.choices(nouns, k=length - 1))]
    else:
        start = [(word, None) for word in ("The", f" {noun}", " began", " in", " the", " year")]
        end = [(",", None), (" the", None), (" year", None), (f" {century}", None)]
        corrupt = [*start, *years.pieces(year), *end]
    right, wrong = years.answers(year)
    variables = (_variables(year), _variables(shown))
    return encoder.pair(clean, corrupt, answers=right, wrong_answers=wrong, variables=variables)


def _variables(year: str) -> dict[str, Value]:
    """Of the start year, if there is one."""
    return {"century": year[:2] or None, "tens": year[2:3] or None, "ones": year[3:] or None}
