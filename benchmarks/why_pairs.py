"""Pairs of prompts for :mod:`benchmarks.why`: of the shipped tasks, and ordinary ones with one content word exchanged.

Development (seed 1) and test (seed 0) share no document and no draw.
"""

from collections.abc import Iterator

import numpy as np

from interp.contrast.proposals import WORD, is_content, likely_words
from interp.models import Model
from interp.prompts.encoding import PromptEncoder
from interp.tasks import load_task
from interp.text.sources import ProbeText

TASKS = ("ioi", "greater-than", "docstring", "agreement", "pronoun", "capital", "successor", "antonym")
TEXTS = ("news", "stories")
SHORTEST, LONGEST = 8, 24
"""Words of an ordinary prompt."""
PUNCTUATION = ".,;:!?\"') "


def task_pairs(model: Model, n: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """``n`` pairs a task, of its counterfactuals in turn: what they are of, A and B."""
    for name in TASKS:
        task = load_task(name)
        for number in range(n):
            kind = task.counterfactuals[number % len(task.counterfactuals)]
            [pair] = task.sample(model.tokenizer, 1, 1000 * seed + number, kind)
            yield f"{name} {kind}", pair.clean, pair.corrupt


def ordinary_pairs(model: Model, n: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """``n`` pairs a text: the beginning of a document, and the same with one content word exchanged, not the last.

    The other word is one that the model finds likely there, any of them.
    """
    encoder = PromptEncoder(model.tokenizer, bos=True)
    for name in TEXTS:
        rng, documents = np.random.default_rng(seed), ProbeText(name).documents(None, seed=0)
        here = [text for number, text in zip(range(2000), documents, strict=False) if number % 2 == seed]
        made = 0
        for place in rng.permutation(len(here)).tolist():
            a = " ".join(here[place].split()[: int(rng.integers(SHORTEST, LONGEST + 1))])
            ids = encoder.bos + encoder.encode(a)
            places = [m for m in WORD.finditer(a) if m.group().islower() and is_content(m.group())]
            places = [m for m in places if m.end() < len(a.rstrip(PUNCTUATION))]
            if len(a.split()) < SHORTEST or not places:
                continue
            word = places[rng.integers(len(places))]
            prompts = [
                f"{a[: word.start()]}{other}{a[word.end() :]}"
                for other in likely_words(model, encoder, a, ids).get(word.start(), [])
            ]
            prompts = [b for b in prompts if len(encoder.bos + encoder.encode(b)) == len(ids)]
            if prompts and made < n:
                made += 1
                yield name, a, prompts[rng.integers(len(prompts))]
            if made == n:
                break
