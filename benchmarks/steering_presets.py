"""Make the workbench's presets and the topics' codes that come with the package, and measure the presets.

    python benchmarks/steering_presets.py [--n 24] [--tokens 40] [--out interp/steering/data]

Run it anew whenever the codebooks of the package change, or the way in which codes are found (``FINDER``): both files
name the codebooks that they were made with, and are passed over with others. All presets are made by one rule: the
codes found by difference, added 2.5 times at every new token, temperature 0.7. One is kept if half of the steered texts
or more hold one of its words, and twice as many as of those without codes and of those with random codes of the same
heads, at no more than four times the perplexity.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import WeightedCode, code_edits, format_codes
from interp.bottlenecks.store import Codebooks
from interp.files import write_json, write_text
from interp.models import load_model
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
BEHAVIOURS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "in French": (
        ("le", "la", "les", "des", "est", "une", "et", "dans", "du", "je", "il", "elle", "pour", "que"),
        (
            "Le chat dort sur la chaise près de la fenêtre.",
            "Nous avons mangé du pain et du fromage à midi.",
            "La petite fille joue dans le jardin avec son frère.",
            "Il fait très beau aujourd'hui et les oiseaux chantent.",
            "Je ne sais pas où sont les clés de la voiture.",
            "Elle achète des pommes et des poires au marché.",
            "Les enfants vont à l'école tous les matins.",
            "Mon père travaille dans une grande usine de la ville.",
            "Est-ce que vous voulez un café ou un thé ?",
            "Le train pour Paris part dans une heure.",
            "On a regardé un film très drôle hier soir.",
            "Cette maison est plus vieille que toutes les autres.",
            "Il a perdu son chapeau dans le vent.",
            "Ma sœur écrit une longue lettre à son amie.",
            "Le boulanger ouvre sa boutique à six heures.",
            "Nous irons à la mer pendant les vacances.",
        ),
    ),
    "a question": (
        ("?",),
        (
            "Where did you put the keys to the house?",
            "What time does the next train leave?",
            "Why is the sky blue in the morning?",
            "Have you ever been to the sea?",
            "How many people live in this village?",
            "Who left the door open last night?",
            "Could you tell me where the station is?",
            "Do you know what happened to her?",
            "Which of these books have you read?",
            "When will the rain stop?",
            "Is there any bread left in the kitchen?",
            "Would you like to come with us?",
            "Are they really going to sell the farm?",
            "Whose coat is hanging on the chair?",
            "Did he say when he would be back?",
            "Can anybody hear me down there?",
        ),
    ),
    "feeling sad": (
        ("sad", "cry", "cried", "crying", "tears", "sadly", "sorry", "sadness", "lonely", "wept"),
        (
            "She was so sad that she could not stop crying.",
            "Tears ran down his cheeks as he read the letter.",
            "The boy sat alone in his room and wept.",
            "Nobody came to the party, and she felt lonely.",
            "He missed his old friend and was sad all day.",
            "The loss of her dog broke the girl's heart.",
            "They stood by the grave in silence and cried.",
            "With a heavy heart he said goodbye to his home.",
            "The sad song made everyone in the room cry.",
            "She hid her face so that no one would see her tears.",
            "He had never felt so miserable in his life.",
            "The old man was lonely after his wife had died.",
            "I am so sorry, she sobbed, I have lost everything.",
            "All hope was gone, and there was only grief.",
            "The child cried because his toy was broken.",
            "It was the saddest day that they could remember.",
        ),
    ),
}
"""Words that count and texts with it, beside the seven topics."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--out", type=Path, default=FILE.parent)
    given = parser.parse_args()
    model = load_model()
    books = Codebooks.from_pretrained("smollm2-135m-instruct-k1", model)
    made_with = identity(model, books)
    prompts = load_topic(topic_names()[0]).prompts
    prompts = [prompts[i % len(prompts)] for i in range(given.n)]

    def texts(codes: Sequence[WeightedCode]) -> tuple[list[str], float]:
        within = (
            attach(model, books, read=False).edit(*code_edits(codes, "added", scale=SCALE)) if codes else None
        )
        made = continue_prompts(
            model, prompts, given.tokens, within=within, temperature=TEMPERATURE, seed=SEED
        )
        surprise = np.concatenate([text.surprise for text in made])
        return [text.text for text in made], math.exp(surprise.mean())

    known: dict[str, CodeSet] = {}
    wanted: dict[str, tuple[tuple[str, ...], CodeSet, str]] = {}
    for name in topic_names():
        topic = load_topic(name)
        for by in RANKINGS:
            key = request_key(made_with, topic.positive, topic.negative, by, 0)
            found = recall(given.out, key) or find_codes(model, books, topic.positive, topic.negative, by=by)
            known[key] = found
            if by == RANKINGS[0]:
                about = (
                    f"Found from {len(topic.positive)} sentences about it and {len(topic.negative)} others."
                )
                wanted[name] = topic.words, found, about
    write_shipped(given.out / SHIPPED.name, known)
    for name, (words, positive) in BEHAVIOURS.items():
        found = find_codes(model, books, positive, neutral_texts())
        about = f"Found from {len(positive)} sentences like it and {len(neutral_texts())} others."
        wanted[name] = words, found, about

    base = texts(())
    table = Table("preset", "codes", "base", "steered", "random", "perplexities", "kept", box=None)
    presets = []
    for name, (words, found, about) in wanted.items():
        codes = found.named(len(found), "added")
        arms = (base, texts(codes), texts(random_codes(model, books, codes, seed=SEED)))
        hits = [sum(holds_word(text, words) for text in some) for some, _ in arms]
        perplexities = [round(perplexity, 1) for _, perplexity in arms]
        kept = (
            hits[1] >= max(given.n / 2, 2 * hits[0], 2 * hits[2]) and perplexities[1] <= 4 * perplexities[0]
        )
        table.add_row(name, str(len(codes)), *map(str, hits), str(perplexities), "yes" if kept else "no")
        Console(width=140).print(name, hits, perplexities, repr(arms[1][0][0][:100]))
        if kept:
            measured = {"n": given.n, "words": list(words), "hits": hits, "perplexities": perplexities}
            settings = {"prompt": STORY, "codes": format_codes(codes), "how": "added", "scale": SCALE}
            settings |= {"temperature": TEMPERATURE, "n_tokens": given.tokens, "found": about}
            presets.append({"name": name, **settings, "measured": measured})
    write_json(given.out / FILE.name, {"format": FORMAT, "made_with": made_with, "presets": presets})
    Console(width=140).print(table)


def write_shipped(file: Path, known: Mapping[str, CodeSet]) -> None:
    """What comes with the package, by request: codes as rows, three digits of what is only looked at."""
    stored = {
        key: found.to_json() | {"codes": [_row(code) for code in found.codes]} for key, found in known.items()
    }
    write_text(file, json.dumps({"found": stored}, separators=(",", ":")) + "\n")


def _row(code: FoundCode) -> list:
    verdict = None if code.verdict is None else [_short(n) for n in dataclasses.astuple(code.verdict)]
    return [code.site, code.code, code.weight, _short(code.effect), _short(code.detection), verdict]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


if __name__ == "__main__":
    main()
