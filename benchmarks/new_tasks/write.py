"""Four tasks that nobody looked at while the finder was made, as prompt files: the finder is judged on them once.

    python benchmarks/new_tasks/write.py
    interp bench --tasks benchmarks/new_tasks/closing.jsonl \
        --methods adaptive-patching,attribution,relp,gim,nap-ig,eap,eap-ig --pairs 10 --out benchmarks/results/new_tasks

``closing``   which bracket or quote closes what is open.
``plural``    one dog, two dogs: the number word at the end decides.
``sum``       one-digit sums after three worked ones.
``language``  the language of a country.
"""

import itertools
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
ROWS = 320

CLOSERS = {"(": ")", "[": "]", '"': '"', "{": "}"}
CODE = "x = f, return g, value = data, print, y = table, result = call, total = sum, item = get"
WORDS = ["name", "a", "count", "index", "left", "key", "i", "total", "start", "b", "size", "text"]
NOUNS = """
dog cat bird book car house tree boat chair table cup apple flower door window bottle river star stone
horse friend teacher student doctor king ship train hat shirt map song word letter picture garden bridge
village
"""
PEOPLE = [("I", "I"), ("We", "we"), ("They", "they"), ("You", "you")]
LANGUAGES = """
France:French Germany:German Italy:Italian Spain:Spanish Russia:Russian China:Chinese Japan:Japanese
Greece:Greek Poland:Polish Sweden:Swedish Portugal:Portuguese Turkey:Turkish Hungary:Hungarian
Norway:Norwegian Finland:Finnish Denmark:Danish
"""
COUNTRIES = dict(pair.split(":") for pair in LANGUAGES.split())
ASKED = [
    "The official language of {} is",
    "In {} most people speak",
    "My neighbour grew up in {} and her first language is",
    "The newspapers of {} are written in",
]


def row(clean: str, corrupt: str, answer: str, wrong: str, **variables: tuple) -> dict:
    sides = {
        side: {name: pair[k] for name, pair in variables.items()}
        for k, side in enumerate(("clean", "corrupt"))
    }
    answers = {"answers": [answer], "wrong_answers": [wrong]}
    return {"clean": clean, "corrupt": corrupt, **answers, "variables": sides}


def closing(rng: random.Random) -> dict:
    opened, other = rng.sample(["(", "["], 2)
    begin, inside = (
        rng.choice(CODE.split(", ")),
        f"{rng.choice(WORDS)}, {rng.choice(WORDS)}, {rng.choice(WORDS)}",
    )
    clean, corrupt = (f"{begin}{bracket}{inside}" for bracket in (opened, other))
    return row(clean, corrupt, CLOSERS[opened], CLOSERS[other], opened=(opened, other))


def plural(rng: random.Random) -> dict:
    noun, (who, again) = rng.choice(NOUNS.split()), rng.choice(PEOPLE)
    several = rng.choice(["two", "three", "four", "five", "six"])
    one, many = (
        f"{who} saw {number} {{}}. Then {again} saw {last}"
        for number, last in ((several, "one"), ("one", several))
    )
    texts = {" " + noun: one.format(noun + "s"), f" {noun}s": many.format(noun)}
    answer, wrong = rng.sample(sorted(texts), 2)
    numbers = tuple("plural" if noun.endswith("s") else "singular" for noun in (answer, wrong))
    return row(texts[answer], texts[wrong], answer, wrong, number=numbers)


def sums(rng: random.Random) -> dict:
    def line(a: int, b: int) -> str:
        return f"{a}+{b}={a + b}"

    pairs = [(a, b) for a, b in itertools.product(range(1, 8), repeat=2) if a + b <= 9]
    *shown, (a, b) = rng.sample(pairs, 4)
    other = rng.choice([c for c in range(1, 9) if c != b and a + c <= 9])
    begin = "\n".join(line(*pair) for pair in shown)
    clean, corrupt = (f"{begin}\n{a}+{last}=" for last in (b, other))
    return row(clean, corrupt, str(a + b), str(a + other), sum=(a + b, a + other), last=(b, other))


def language(rng: random.Random) -> dict:
    asked, (country, other) = rng.choice(ASKED), rng.sample(sorted(COUNTRIES), 2)
    clean, corrupt = asked.format(country), asked.format(other)
    return row(clean, corrupt, " " + COUNTRIES[country], " " + COUNTRIES[other], country=(country, other))


TASKS = {"closing": closing, "plural": plural, "sum": sums, "language": language}


def main() -> None:
    for name, draw in TASKS.items():
        rng, found = random.Random(name), {}
        while len(found) < ROWS:
            one = draw(rng)
            found[one["clean"], one["corrupt"]] = one
        lines = [json.dumps(one, ensure_ascii=False) for one in found.values()]
        (HERE / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
