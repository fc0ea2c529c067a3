"""What the codes of each kind are worth to a reader: names, sparse probes, paraphrases and other fits.

    python -m benchmarks.reading read          # runs the model once; half an hour of a core
    python -m benchmarks.reading judge         # kind after kind; goes on where it stopped
    python -m benchmarks.reading show          # prints the tables in benchmarks/TABLES.md

All kinds see the same vectors at the sites of ``benchmarks/rates.py``, and are fitted to the same blocks of text.

* **Names.** Of every code the pattern that tells best where it is on, chosen on one half of the documents. What counts
  is how far its F1 on the other half comes from that of random codes of the same frequency to 1.
* **Probes.** Ten yes-or-no tables of ``sae-probes`` (arXiv 2502.16681). Those few codes are chosen whose means differ
  most between the classes, in standard deviations; a logistic regression of them is judged by its AUC on other texts.
* **Seeds.** A code's best F1 with a code of another fit of the same kind to the same text, in the mean over tokens.
* **Paraphrases.** Pairs of sentences that say the same (MRPC): at a word that both have once, how often the code is the
  same, beside the same word in another sentence.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from benchmarks.coders import TopK, new_coder
from benchmarks.common import RESULTS, arguments, interval, kept, print_table
from benchmarks.labels import TEXT, corpus_of
from benchmarks.rates import PARTS, SITES
from interp.activations.stream import end_logits
from interp.bottlenecks.product_codebook import ProductCodebook
from interp.codesearch.labels import LEAST, best_patterns, beyond_chance, null_f1
from interp.codesearch.patterns import Patterns
from interp.files import read_json, write_json
from interp.models import Model, hooked, load_model, resolve_site
from interp.progress import bar
from interp.stats import mean_interval
from interp.text import load_text
from interp.text.sources import probe_table
from interp.text.special import first_token

CONTEXT, FIT_BLOCKS, BLOCKS = 64, 350, 2150
TABLES = (
    *("5_hist_fig_ismale", "21_headline_istrump", "92_glue_sst2", "96_spam_is", "105_click_bait"),
    *("106_hate_hate", "110_aimade_humangpt3", "139_news_class_Politics", "158_code_C", "161_agnews_0"),
)
TEXTS, PAIRS = 400, 300
KINDS = (
    *(("vq", 9), ("random", 9), ("prototypes", 9), ("binary", 9), ("bsq", 9), ("fsq", 9)),
    *(("residual_vq", 36), ("grouped_vq", 36), ("codebook", 36), ("bsq", 36), ("lfq", 36), ("fsq", 36)),
    *(("latent_quantization", 36), ("binary", 36), ("key_value", 36), ("pca4", 36), ("topk_sae", 36)),
)
SEEDED = (("vq", 9, 1), ("residual_vq", 36, 1))
FREQUENCIES = (0.0, 0.01, 0.1, 1.0)
"""Bounds of the share of tokens at which a code is on: kinds are compared within them."""
CHOSEN = (1, 16)
FOLDER = Path("runs/reading")
RESULT = RESULTS / "reading.json"


def probe_texts() -> Iterator[tuple[str, str, int]]:
    """Table, text and class, as many of both classes."""
    for name in TABLES:
        rows = probe_table(name)
        for number, wanted in enumerate(sorted({target for _, target in rows})):
            class_texts = [text for text, target in rows if target == wanted and text.strip()]
            for i in np.random.default_rng(number).permutation(len(class_texts))[: TEXTS // 2].tolist():
                yield name, class_texts[i], number


def paraphrases() -> Iterator[tuple[str, str]]:
    for text, target in probe_table("89_glue_mrpc"):
        first, mark, second = text.partition(" | ")
        if target == "1" and mark:
            yield first, second


class Reader:
    """Vectors at the sites, written row after row as 16-bit floats."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.places = [resolve_site(model, name) for name in SITES]
        folder.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def read(self, name: str, batches: list[torch.Tensor]) -> None:
        """Of batches of token ids [text, pos]; the tokens and the rows each text has are kept too."""
        seen: dict[str, torch.Tensor] = {}
        by_hook: dict[str, list] = {}
        for place in self.places:
            by_hook.setdefault(place.hook, []).append(place)

        def keep(here: list):
            def hook(x: torch.Tensor) -> None:
                for place in here:
                    seen[str(place)] = (x if place.head is None else x[:, :, place.head]).flatten(0, 1)

            return hook

        parts: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
        with (
            hooked(self.model, {hook: keep(here) for hook, here in by_hook.items()}),
            bar(f"reading {name}", len(batches)) as done,
        ):
            for tokens in batches:
                end_logits(self.model, tokens)
                for part, kind in zip(PARTS, ("attn", "mlp"), strict=True):
                    activations = [seen[str(place)] for place in self.places if place.kind == kind]
                    parts[part].append(torch.stack(activations, 1).half().numpy())
                done(1)
        for part, rows in parts.items():
            np.save(self.folder / f"{name}-{part}.npy", np.concatenate(rows))
        lengths = [tokens.shape[1] for tokens in batches for _ in tokens]
        np.save(self.folder / f"{name}-lengths.npy", np.array(lengths))
        np.save(self.folder / f"{name}-tokens.npy", torch.cat([t.flatten() for t in batches]).numpy())


def read(folder: Path) -> None:
    model = load_model()
    reader, begin = Reader(model, folder), first_token(model.tokenizer)
    text = load_text(TEXT, model, n_tokens=BLOCKS * CONTEXT, context=CONTEXT, stage=bar)
    order = torch.argsort(text.sources, stable=True)  # documents stay together
    mixed = torch.randperm(len(order), generator=torch.Generator().manual_seed(0))
    fit, named = mixed[:FIT_BLOCKS], order[torch.isin(order, mixed[FIT_BLOCKS:])]
    np.save(folder / "named-sources.npy", text.sources[named].numpy())
    reader.read("fit", list(text.tokens[fit].split(16)))
    reader.read("named", list(text.tokens[named].split(16)))

    def cut(text: str) -> torch.Tensor:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"][: CONTEXT - 1]
        return torch.tensor([[begin, *ids]])

    rows = list(probe_texts())
    reader.read("probes", [cut(text) for _, text, _ in rows])
    write_json(folder / "probes.json", [[name, number] for name, _, number in rows])
    pairs = list(paraphrases())[:PAIRS]
    reader.read("pairs", [cut(text) for pair in pairs for text in pair])


class Vectors:
    """What :func:`read` kept; first positions are left out but for ``named``, which has whole blocks."""

    def __init__(self, folder: Path, name: str) -> None:
        self.lengths = np.load(folder / f"{name}-lengths.npy")
        self.tokens = np.load(folder / f"{name}-tokens.npy")
        self.ends = np.cumsum(self.lengths)
        self.parts = {part: np.load(folder / f"{name}-{part}.npy", mmap_mode="r") for part in PARTS}

    def rows(self, part: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.parts[part])).float()

    @property
    def later(self) -> np.ndarray:
        """Rows that are not a text's first."""
        first = np.zeros(len(self.tokens), bool)
        first[self.ends - self.lengths] = True
        return ~first


def ids_of(coder: Any, rows: torch.Tensor) -> tuple[np.ndarray, int]:
    """Ids [row, group, k] among all codes of a group, and how many these are."""
    ids = torch.cat([coder.coded(chunk)[0] for chunk in rows.split(8192)]).long().numpy()
    sizes = coder.sizes()
    if isinstance(coder, TopK) or not isinstance(getattr(coder, "book", None), ProductCodebook | None):
        return ids, sizes[0]  # slots choose from one dictionary
    starts = np.cumsum([0, *sizes])
    return ids + starts[:-1], int(starts[-1])


def names(patterns: Patterns, ids: np.ndarray, size: int) -> list[dict[str, list[float]]]:
    """Of every group: firings on the second half, F1 there, and F1 of codes with the same firings elsewhere."""
    rng = np.random.default_rng(0)
    best_by_group = [best_patterns(patterns, ids[:, group], size)[0] for group in range(ids.shape[1])]
    random = [best_patterns(patterns, rng.permutation(ids[:, group]), size)[0] for group in range(ids.shape[1])]
    fired, chance = (np.concatenate([getattr(best, name) for best in random]) for name in ("fired", "f1"))
    null = null_f1(fired, chance)
    total = patterns.sizes[1]
    rows = []
    for best in best_by_group:
        frequent = best.fired >= LEAST
        beyond = beyond_chance(best.f1[frequent], null(best.fired[frequent]))
        rows.append({"share": _short(best.fired[frequent] / total), "f1": _short(beyond)})
    return rows


def _short(values: np.ndarray) -> list[float]:
    return values.astype(float).round(5).tolist()


def matched(ids: np.ndarray, others: np.ndarray, size: int) -> list[float]:
    """Of every group: the best F1 of a code with one of another fit, weighted by how often the code is on."""
    scores = []
    for a, b in zip(ids.transpose(1, 2, 0), others.transpose(1, 2, 0), strict=True):
        both = sum(np.bincount(i * size + j, minlength=size**2) for i in a for j in b).reshape(size, size)
        fired, other = (np.bincount(part.ravel(), minlength=size) for part in (a, b))
        best = (2 * both / np.maximum(fired[:, None] + other, 1)).max(1)
        scores.append(float((best * fired).sum() / fired.sum()))
    return scores


def features(ids: np.ndarray, size: int, vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """[text, group · code]: whether the code is on at the last token, and at which share of the tokens."""
    n_groups = ids.shape[1]
    columns = (np.arange(n_groups)[:, None] * size + ids).reshape(len(ids), -1)
    last, share = (np.zeros((len(vectors.ends), n_groups * size), np.float32) for _ in range(2))
    for text, (end, n) in enumerate(zip(vectors.ends, vectors.lengths, strict=True)):
        last[text, columns[end - 1]] = 1
        np.add.at(share[text], columns[end - n + 1 : end].ravel(), 1 / max(n - 1, 1))
    return last, share


def probe(x: np.ndarray, target: np.ndarray, chosen: int | None) -> float:
    """AUC on the second half of the texts of each class."""
    train = np.zeros(len(target), bool)
    for number in (0, 1):
        class_rows = np.flatnonzero(target == number)
        train[class_rows[: len(class_rows) // 2]] = True
    if chosen is not None:
        a, b = x[train & (target == 0)], x[train & (target == 1)]
        apart = np.abs(a.mean(0) - b.mean(0)) / (x[train].std(0) + 1e-3)
        x = x[:, np.argsort(-apart, kind="stable")[:chosen]]
    scale = StandardScaler().fit(x[train])
    fitted = LogisticRegression(C=1.0 if chosen else 0.01, max_iter=500).fit(scale.transform(x[train]), target[train])
    return float(roc_auc_score(target[~train], fitted.decision_function(scale.transform(x[~train]))))


def probes(last: np.ndarray, share: np.ndarray, rows: list, kept: tuple[int | None, ...]) -> dict[str, Any]:
    tables, targets = np.array([name for name, _ in rows]), np.array([number for _, number in rows])
    return {
        f"{place} {n or 'all'}": {name: probe(x[tables == name], targets[tables == name], n) for name in TABLES}
        for place, x in (("last", last), ("share", share))
        for n in kept
    }


def aligned(pairs: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a word that both sentences of a pair have once, and rows of the same word in other sentences."""
    begins = pairs.ends - pairs.lengths
    once: list[dict[int, int]] = []
    for begin, end in zip(begins, pairs.ends, strict=True):
        tokens, counts = np.unique(pairs.tokens[begin + 1 : end], return_counts=True)
        single = set(tokens[counts == 1].tolist())
        once.append({int(t): begin + 1 + i for i, t in enumerate(pairs.tokens[begin + 1 : end]) if int(t) in single})
    elsewhere: dict[int, list[tuple[int, int]]] = {}
    for text, row_by_token in enumerate(once):
        for token, row in row_by_token.items():
            elsewhere.setdefault(token, []).append((text // 2, row))
    rng, same, other = np.random.default_rng(0), [], []
    for number in range(len(once) // 2):
        a, b = once[2 * number], once[2 * number + 1]
        for token in sorted(a.keys() & b.keys()):
            away = [row for pair, row in elsewhere[token] if pair != number]
            if away:
                same.append((number, a[token], b[token]))
                other.append((number, a[token], away[rng.integers(len(away))]))
    return np.array(same), np.array(other)


def agreement(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Share of the same codes by pair of sentences, mean over groups."""
    a, b = ids[rows[:, 1]], ids[rows[:, 2]]
    share = (a[..., None] == b[..., None, :]).any(-1).mean((1, 2))
    pairs = np.unique(rows[:, 0])
    return np.array([share[rows[:, 0] == pair].mean() for pair in pairs])


def judge(folder: Path, kinds: Sequence[tuple[str, int, int]]) -> None:
    fit, named, texts, pairs = (Vectors(folder, name) for name in ("fit", "named", "probes", "pairs"))
    corpus = corpus_of(named.tokens.reshape(-1, CONTEXT).astype(np.int32), np.load(folder / "named-sources.npy"))
    patterns, rows, words = Patterns(corpus), read_json(folder / "probes.json"), aligned(pairs)
    result = kept(RESULT, {"rows": []})
    known = {(row["kind"], row["asked"], row["seed"]) for row in result["rows"]}
    if ("vectors", 0, 0) not in known:
        flat = [texts.rows(part).flatten(1).numpy() for part in PARTS]
        every = np.concatenate(flat, 1)
        begins = texts.ends - texts.lengths + 1
        share = np.stack([every[a:b].mean(0) for a, b in zip(begins, texts.ends, strict=True)])
        probe_scores = probes(every[texts.ends - 1], share, rows, (*CHOSEN, None))
        result["rows"].append({"kind": "vectors", "asked": 0, "seed": 0, "probes": probe_scores})
        write_json(RESULT, result, indent=None)
    with bar("judging kinds", len(kinds)) as done:
        for kind, bits, seed in kinds:
            if (kind, bits, seed) not in known:
                record: dict[str, Any] = {"kind": kind, "asked": bits, "seed": seed, "parts": {}}
                whole = []
                for part in PARTS:
                    rows_of_fit = fit.rows(part)[fit.later]
                    _, n, d = rows_of_fit.shape
                    coder = new_coder(kind, bits, d, n, seed)
                    coder.fit(rows_of_fit)
                    ids, size = ids_of(coder, named.rows(part))
                    record["parts"][part] = {"bits": coder.bits, "names": names(patterns, ids, size)}
                    if kind != "topk_sae":  # which takes six minutes
                        again = new_coder(kind, bits, d, n, seed + 1)
                        again.fit(rows_of_fit)
                        others, _ = ids_of(again, named.rows(part))
                        record["parts"][part]["seeds"] = matched(ids, others, size)
                    ids, _ = ids_of(coder, pairs.rows(part))
                    same, other = (agreement(ids, word_rows) for word_rows in words)
                    record["parts"][part] |= {"paraphrase": _short(same), "elsewhere": _short(other)}
                    whole.append(features(ids_of(coder, texts.rows(part))[0], size, texts))
                last, share = (np.concatenate(arrays, 1) for arrays in zip(*whole, strict=True))
                record["probes"] = probes(last, share, rows, CHOSEN)
                result["rows"].append(record)
                write_json(RESULT, result, indent=None)
            done(1)


def show() -> None:
    rows = read_json(RESULT)["rows"]
    coded = [row for row in rows if row["kind"] != "vectors"]
    print("How far F1 comes from chance to 1, by the share of tokens at which codes are on; codes in brackets")
    for part in PARTS:
        cells = []
        for row in coded:
            of = row["parts"][part]
            share, f1 = (np.concatenate([group[key] for group in of["names"]]) for key in ("share", "f1"))
            by_share = []
            for low, high in itertools.pairwise(FREQUENCIES):
                in_range = (share > low) & (share <= high)
                by_share.append(f"{f1[in_range].mean():.3f} ({in_range.sum()})" if in_range.sum() >= LEAST else None)
            cells.append((row["kind"], f"{of['bits']:.0f}", *by_share))
        bounds = (f"to {high:.1%}" for high in FREQUENCIES[1:])
        print_table(("kind", "bits", *bounds), cells, part)
    base = next(row for row in rows if row["kind"] == "vq")["probes"]
    cells = []
    for row in rows:
        of = {key: np.array(list(scores.values())) for key, scores in row["probes"].items()}
        means = (f"{of[key].mean():.3f}" if key in of else None for key in base)
        apart = _mean(of["share 16"] - np.array(list(base["share 16"].values())))
        cells.append((row["kind"], row["asked"], *means, apart))
        if "share all" in of:
            print(f"all coordinates: last {of['last all'].mean():.3f}, share {of['share all'].mean():.3f}")
    title = "AUC of probes, mean of the tables"
    print_table(("kind", "bits", *base, "minus vq, share 16"), cells, title)
    print("In brackets: by chance, of codes that are on as often")
    cells = []
    for row in coded:
        row_cells: list[str | None] = []
        for of in (row["parts"][part] for part in PARTS):
            row_cells += [_mean(of[key]) for key in ("paraphrase", "elsewhere")]
            again = f"{np.mean(of['seeds']):.2f} ({_chance(of['names']):.2f})" if "seeds" in of else None
            row_cells.append(again)
        cells.append((row["kind"], row["asked"], *row_cells))
    comparisons = ("paraphrase", "elsewhere", "another seed")
    print_table(("kind", "bits", *(f"{part}: {what}" for part in PARTS for what in comparisons)), cells)


def _mean(values: Sequence[float] | np.ndarray) -> str:
    """With its 95 % bootstrap interval."""
    low, high = mean_interval(np.asarray(values)[:, None], 0)
    return interval(float(np.mean(values)), low[0], high[0])


def _chance(groups: list[dict[str, list[float]]]) -> float:
    """What :func:`matched` gives on average where two fits' codes fire independently of each other."""
    chance_scores = []
    for share in (np.array(group["share"]) for group in groups if group["share"]):
        best = 2 * share * share.max() / (share + share.max())
        chance_scores.append((best * share).sum() / share.sum())
    return float(np.mean(chance_scores))


def main() -> None:
    args = arguments(__doc__, {"step": {"choices": ("read", "judge", "show")}}, folder=FOLDER)
    if args.step == "read":
        read(args.folder)
    elif args.step == "judge":
        judge(args.folder, [*((kind, bits, 0) for kind, bits in KINDS), *SEEDED])
    else:
        show()


if __name__ == "__main__":
    main()
