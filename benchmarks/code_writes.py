"""Do codes write what their names say? Told by setting them, on text that named none.

    python -m benchmarks.code_writes          # needs the index of `python -m benchmarks.labels label`
    python -m benchmarks.code_writes --show

Of 200 codes at heads of the last third of layers that are said to write something, drawn with seed 0, at eight of
their firings on the second half of the documents: the code becomes the head's mean code. How far do the log
probabilities of its named tokens fall? Beside it stand the named tokens of another code of the same head, the one whose
tokens are nearest in log probability in that context. Adding a code would be circular: its tokens are read off its
vector. *Out*: the whole head says its mean code there, and names are those of the code that is on, against the same
other code's.
"""

import re

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from benchmarks.labels import FOLDER, NAMES, books
from interp import load_model
from interp.bottlenecks.edits import parse_codes
from interp.bottlenecks.store import PRETRAINED
from interp.codesearch import CodeIndex, Labels
from interp.codesearch.contexts import spaced
from interp.codesearch.labels import LABELS
from interp.codesearch.patterns import halves
from interp.codesearch.writes import NAMED, written_logits
from interp.files import read_json, write_json
from interp.models import Model, hooked, parse_site
from interp.progress import bar
from interp.stats import mean_interval
from interp.steering.topics import FILE, load_topic, topic_names

RESULT = RESULTS / "code_writes.json"
CODES, FIRINGS, FIRST_LAYER = 200, 8, 20


def measure(seed: int) -> list[dict]:
    every, model = books(), load_model()
    index = CodeIndex.open(FOLDER / "index", every)
    labels = Labels.open(PRETRAINED / NAMES[0] / LABELS)
    corpus, rng, rows = index.corpus, np.random.default_rng(seed), []
    tokens = np.asarray(corpus.tokens).astype(np.int64)
    held = (halves(corpus, 0) == 1) & (np.arange(len(tokens)) % corpus.context < corpus.context - 1)
    described_codes = [
        (book, code)
        for book, (_, n) in labels.starts.items()
        if parse_site(book).layer >= FIRST_LAYER
        for code in range(n)
        if labels.of(book, code).writes
    ]
    chosen = sorted(described_codes[i] for i in rng.choice(len(described_codes), CODES, replace=False))
    with bar("codes", len(chosen)) as advance:
        for book, code in chosen:
            ids = index.ids.book(index.layout.number(book)).reshape(-1)[: len(tokens)]
            at = spaced(np.flatnonzero((ids == code) & held), FIRINGS)
            counts = np.bincount(ids, minlength=513)[:512]
            vocabulary, logits = written_logits(index, model, book, counts)
            order = np.argsort(-logits, axis=1)
            raises = labels.of(book, code).writes.startswith("raises")
            furthest = vocabulary[order[:, :NAMED] if raises else order[:, -NAMED:]]
            others = furthest[(counts > 0) & ~np.isin(furthest, furthest[code]).any(1)]
            begin = at // corpus.context * corpus.context
            vectors = index.vectors(book)
            mean = torch.from_numpy(counts).float() @ vectors / counts.sum()
            falls = {"set": [], "out": []}
            for token, start in zip(at.tolist(), begin.tolist(), strict=True):
                prompt = torch.from_numpy(tokens[start : token + 1])[None]
                plain = _log_p(model, prompt, book, None)
                there = {"set": _log_p(model, prompt, book, (mean - vectors[code], False))}
                there["out"] = _log_p(model, prompt, book, (mean, True))
                nearest = others[np.abs(plain[others].mean(1) - plain[furthest[code]].mean()).argmin()]
                for way, edited in there.items():
                    sign = 1 if raises else -1
                    fall = sign * (plain - edited)
                    falls[way].append((float(fall[furthest[code]].mean()), float(fall[nearest].mean())))
            rows.append(
                {"code": f"{book}={code}", "n": len(at)}
                | {way: np.mean(both, 0).round(5).tolist() for way, both in falls.items()}
            )
            write_json(RESULT, {"codes": rows, "topics": _topics(labels, rng)})
            advance(1)
    return rows


@torch.no_grad()
def _log_p(
    model: Model, prompt: Tensor, book: str, edit: tuple[Float[Tensor, " d"], bool] | None
) -> Float[np.ndarray, " d_vocab"]:
    """Of the next token; ``edit`` is added to what the head says last, or takes its place."""
    site = parse_site(book)

    def change(z: Tensor) -> Tensor:
        z = z.clone()
        heads = z.view(*z.shape[:2], model.cfg.n_heads, -1)
        vector, whole = edit
        heads[:, -1, site.head] = vector if whole else heads[:, -1, site.head] + vector
        return z

    with hooked(model, {} if edit is None else {f"blocks.{site.layer}.attn.hook_z": change}):
        return model(prompt)[0, -1].float().log_softmax(-1).numpy()


def _topics(labels: Labels, rng: np.random.Generator) -> dict[str, list[float]]:
    """By topic: of the codes chosen for it, the share that are said to raise a token of one of its words; the same of
    codes drawn at random at the same heads, the mean of 200 draws; and how many they are."""
    shares = {}
    for preset in read_json(FILE)["presets"]:
        if preset["name"] not in topic_names():
            continue
        words = [word.lower() for word in load_topic(preset["name"]).words]
        codes = [(code.site, code.code) for code in parse_codes(preset["codes"]) if code.site in labels.starts]

        def names(site: str, code: int, words: list[str] = words) -> bool:
            writes = labels.of(site, code).writes
            raised_tokens = re.findall("“([^”]*)”", writes) if writes.startswith("raises") else []
            return any(
                len(t.strip()) > 2 and word.startswith(t.strip().lower()) for t in raised_tokens for word in words
            )

        chance = [[names(site, int(rng.integers(512))) for site, _ in codes] for _ in range(200)]
        shares[preset["name"]] = [float(np.mean([names(*code) for code in codes])), float(np.mean(chance)), len(codes)]
    return shares


def main() -> None:
    given = arguments(__doc__, seed=0, threads=1, show=False)
    if not given.show:
        measure(given.seed)
    result = kept(RESULT, {"codes": [], "topics": {}})
    rows = []
    for way in ("set", "out"):
        both = np.array([row[way] for row in result["codes"]])
        columns = np.column_stack([both, both[:, 0] - both[:, 1], both[:, 0] > both[:, 1]])
        low, high = mean_interval(columns, given.seed)
        intervals = [interval(*numbers, form="+.2f") for numbers in zip(columns.mean(0), low, high, strict=True)]
        rows.append((way, len(both), *intervals))
    columns = ("edit", "codes", "named tokens fall by", "another code's", "more", "share of codes with more")
    print_table(columns, rows)
    rows = [(topic, n, f"{share:.0%}", f"{chance:.1%}") for topic, (share, chance, n) in result["topics"].items()]
    print_table(("topic", "its codes", "name a word of it", "random codes"), rows)


if __name__ == "__main__":
    main()
