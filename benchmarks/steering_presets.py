"""Make the workbench's presets and the topics' codes that come with the package, and measure the presets.

    python -m benchmarks.steering_presets [--n 24] [--tokens 40] [--out interp/steering/data]

Run it anew whenever the package's codebooks change, or how codes are found (``FINDER``). All presets are made by one
rule: the codes found by difference, added 2.5 times at every new token, temperature 0.7. One is kept if half of the
steered texts or more hold one of its words, and twice as many as of those without codes and of those with random codes
of the same heads, at no more than four times the perplexity.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import arguments, print_table
from interp import Codebooks, attach, load_model
from interp.bottlenecks.edits import WeightedCode, code_edits, format_codes
from interp.files import read_json, write_json, write_text
from interp.steering import find_codes, load_topic, topic_names
from interp.steering.cache import SHIPPED, identity, recall, request_key
from interp.steering.code_set import SCALE, CodeSet, FoundCode
from interp.steering.continuations import continue_prompts
from interp.steering.find import RANKINGS
from interp.steering.request import random_codes
from interp.steering.topics import FILE, FORMAT, holds_word, neutral_texts

TEMPERATURE = 0.7
SEED = 1  # texts were looked at with seed 0 while the rule was chosen
STORY = "One day, Tim and his mom went to"
BEHAVIOURS = Path(__file__).with_suffix(".json")
"""Presets beside the seven topics."""


def main() -> None:
    given = arguments(__doc__, n=24, tokens=40, out=FILE.parent)
    model = load_model()
    books = Codebooks.from_pretrained("smollm2-135m-instruct-k1", model)
    made_with = identity(model, books)
    prompts = load_topic(topic_names()[0]).prompts
    prompts = [prompts[i % len(prompts)] for i in range(given.n)]

    def texts(codes: Sequence[WeightedCode]) -> tuple[list[str], float]:
        within = attach(model, books, read=False).edit(*code_edits(codes, "added", scale=SCALE)) if codes else None
        made = continue_prompts(model, prompts, given.tokens, within=within, temperature=TEMPERATURE, seed=SEED)
        surprise = np.concatenate([text.surprise for text in made])
        return [text.text for text in made], math.exp(surprise.mean())

    known: dict[str, CodeSet] = {}
    wanted: dict[str, tuple[tuple[str, ...], CodeSet, str]] = {}
    for name in topic_names():
        topic = load_topic(name)
        for by in RANKINGS:
            key = request_key(made_with, topic.positive, topic.negative, by, 0)
            code_set = recall(given.out, key) or find_codes(model, books, topic.positive, topic.negative, by=by)
            known[key] = code_set
            if by == RANKINGS[0]:
                about = f"Found from {len(topic.positive)} sentences about it and {len(topic.negative)} others."
                wanted[name] = topic.words, code_set, about
    write_shipped(given.out / SHIPPED.name, known)
    behaviours = read_json(BEHAVIOURS)
    del behaviours["about"]
    for name, behaviour in behaviours.items():
        words, positive = tuple(behaviour["words"]), tuple(behaviour["texts"])
        code_set = find_codes(model, books, positive, neutral_texts())
        about = f"Found from {len(positive)} sentences like it and {len(neutral_texts())} others."
        wanted[name] = words, code_set, about

    base = texts(())
    rows = []
    presets = []
    for name, (words, code_set, about) in wanted.items():
        codes = code_set.named(len(code_set), "added")
        arms = (base, texts(codes), texts(random_codes(model, books, codes, seed=SEED)))
        hits = [sum(holds_word(text, words) for text in arm_texts) for arm_texts, _ in arms]
        perplexities = [round(perplexity, 1) for _, perplexity in arms]
        kept = hits[1] >= max(given.n / 2, 2 * hits[0], 2 * hits[2]) and perplexities[1] <= 4 * perplexities[0]
        rows.append((name, len(codes), *hits, perplexities, "yes" if kept else "no"))
        print(name, hits, perplexities, repr(arms[1][0][0][:100]))
        if kept:
            measured = {"n": given.n, "words": list(words), "hits": hits, "perplexities": perplexities}
            settings = {"prompt": STORY, "codes": format_codes(codes), "how": "added", "scale": SCALE}
            settings |= {"temperature": TEMPERATURE, "n_tokens": given.tokens, "found": about}
            presets.append({"name": name, **settings, "measured": measured})
    write_json(given.out / FILE.name, {"format": FORMAT, "made_with": made_with, "presets": presets})
    print_table(("preset", "codes", "base", "steered", "random", "perplexities", "kept"), rows)


def write_shipped(file: Path, known: Mapping[str, CodeSet]) -> None:
    """What comes with the package, by request: codes as rows, three digits of what is only looked at."""
    stored = {
        key: code_set.to_json() | {"codes": [_row(code) for code in code_set.codes]} for key, code_set in known.items()
    }
    write_text(file, json.dumps({"found": stored}, separators=(",", ":")) + "\n")


def _row(code: FoundCode) -> list:
    verdict = None if code.verdict is None else [_short(n) for n in dataclasses.astuple(code.verdict)]
    return [code.site, code.code, code.weight, _short(code.effect), _short(code.detection), verdict]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


if __name__ == "__main__":
    main()
