"""Sparse probing: how well a few codes tell texts of two kinds apart, at equal bits.

    python benchmarks/probes.py [--texts 320] [--show]

In the form of Kantamneni et al. 2025 (arXiv 2502.16681), on eight of their data sets, which the wheel ``sae-probes``
holds; it is fetched on request. Bottlenecks are fitted as in ``interp bottlenecks bench``, to twelve heads and three
MLP outputs. A feature is the share of a text's tokens that have a code; of activations it is their mean. The features
that differ most between the classes of the training half, in units of their spread, go into a logistic regression; told
is its ROC AUC on the other half. Beside them stand the shares of tokens themselves.
"""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp import load_model
from interp.activations.stream import ActivationTape
from interp.evaluation.rates import PARTS, RateBench, RateConfig, new_coder
from interp.files import write_json
from interp.models import hooked
from interp.progress import bar
from interp.stats import mean_interval
from interp.text.sources import _probes_wheel

OUT = Path(__file__).parent / "results" / "probes.json"
DATA = {
    "21_headline_istrump": "headline names Trump",
    "105_click_bait": "clickbait",
    "92_glue_sst2": "praise or blame",
    "87_glue_cola": "grammatical",
    "96_spam_is": "spam",
    "161_agnews_0": "world news",
    "7_hist_fig_ispolitician": "name of a politician",
    "80_side-effects": "says side effects",
}
CELLS = (
    *((kind, 9) for kind in ("vq", "prototypes", "random", "ternary", "key-value", "bsq", "fsq")),
    *((kind, 36) for kind in ("residual-vq", "grouped-vq", "codebook", "gumbel", "bsq", "fsq")),
    ("topk_sae", 52),
)
CHOSEN = (1, 5, 20, 100)
MOST_TOKENS, BATCH, SPLITS = 48, 16, 3


def texts(name: str, n: int) -> tuple[list[str], np.ndarray]:
    """As many of one class as of the other, and which each is of."""
    with zipfile.ZipFile(_probes_wheel()) as wheel:
        rows = pl.read_csv(wheel.read(f"sae_probes/data/cleaned_data/{name}.csv.zst"), infer_schema_length=0)
    classes = sorted(rows["target"].unique())
    rows = [
        rows.filter(pl.col("target") == one).sample(n // 2, seed=0)["prompt"].to_list() for one in classes
    ]
    return [*rows[0], *rows[1]], np.repeat([0, 1], n // 2)


@torch.no_grad()
def read(model, bench: RateBench, given: list[str]) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """Vectors at the sites by part, [token, site, d]; the text that each token is of; and its id."""
    tokenized = [model.tokenizer(text).input_ids[:MOST_TOKENS] for text in given]
    order = np.argsort([len(one) for one in tokenized], kind="stable")
    found: dict[str, list[torch.Tensor]] = {part: [] for part in PARTS}
    whose, ids = [], []
    for begin in range(0, len(order), BATCH):
        some = order[begin : begin + BATCH]
        length = max(len(tokenized[i]) for i in some)
        tokens = torch.tensor([[*tokenized[i], *[0] * (length - len(tokenized[i]))] for i in some])
        there = torch.arange(length) < torch.tensor([len(tokenized[i]) for i in some])[:, None]
        there[:, 0] = False  # the first position is of no code
        tape = ActivationTape(place.hook for places in bench.places.values() for place in places)
        with hooked(model, {**tape.hooks, "unembed.hook_in": lambda x: x[:, -1:]}):
            model(tokens)
        for part, places in bench.places.items():
            own = [tape[p.hook] if p.head is None else tape[p.hook][:, :, p.head] for p in places]
            found[part].append(torch.stack(own, 2)[there])
        whose.append(np.repeat(some, there.sum(1)))
        ids.append(tokens[there].numpy())
    return {part: torch.cat(own) for part, own in found.items()}, np.concatenate(whose), np.concatenate(ids)


def shares(ids: Int[np.ndarray, "token slot"], sizes: list[int], whose: np.ndarray, n: int) -> csr_matrix:
    """Share of each text's tokens that have each code of each slot."""
    columns = ids + np.cumsum([0, *sizes[:-1]])
    counts = np.bincount(whose, minlength=n)
    rows = np.repeat(whose, ids.shape[1])
    return csr_matrix((1 / counts[rows], (rows, columns.ravel())), shape=(n, sum(sizes)))


def probed(features: csr_matrix | np.ndarray, classes: np.ndarray) -> Float[np.ndarray, "split chosen"]:
    """ROC AUC on the other half."""
    found = np.empty((SPLITS, len(CHOSEN)))
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(classes))
        train, test = np.array_split(order, 2)
        dense = features.toarray() if isinstance(features, csr_matrix) else features
        spread = dense[train].std(0)
        difference = abs(
            dense[train][classes[train] == 1].mean(0) - dense[train][classes[train] == 0].mean(0)
        )
        best = np.argsort(-difference / np.maximum(spread, 1e-9) * (spread > 0), kind="stable")
        for place, k in enumerate(CHOSEN):
            some = dense[:, best[:k]] / np.maximum(spread[best[:k]], 1e-9)
            fitted = LogisticRegression(max_iter=1000).fit(some[train], classes[train])
            found[split, place] = roc_auc_score(classes[test], fitted.decision_function(some[test]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=320, help="of each data set")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    if not given.show:
        measure(given.texts)
    show(json.loads(OUT.read_text()))


def measure(n: int) -> None:
    model = load_model()
    bench = RateBench(model, RateConfig(n_heldout=128, tasks=()), stage=bar)
    every = {}
    with bar("texts", len(DATA)) as advance:
        for name in DATA:
            given, classes = texts(name, n)
            every[name] = (*read(model, bench, given), classes)
            advance(1)
    found: dict[str, dict] = {}
    with bar("probes", len(CELLS) + 2) as advance:
        found["tokens"] = {
            name: probed(shares(ids[:, None], [model.cfg.d_vocab], whose, n), classes).tolist()
            for name, (_, whose, ids, classes) in every.items()
        }
        advance(1)
        found["activations"] = {
            name: probed(_means(*own[:2], n), own[3]).tolist() for name, own in every.items()
        }
        advance(1)
        for kind, bits in CELLS:
            features: dict[str, list[csr_matrix]] = {name: [] for name in DATA}
            for part, places in bench.places.items():
                coder = new_coder(kind.replace("-", "_"), bits, bench.train[part].shape[-1], len(places), 0)
                coder.fit(bench.train[part])
                for name, (vectors, whose, _, _) in every.items():
                    ids, _ = coder.coded(vectors[part])
                    assert ids is not None
                    sizes = list(coder.sizes()) * len(places)
                    features[name].append(shares(ids.flatten(1).numpy(), sizes, whose, n))
            found[f"{kind}, {bits}"] = {
                name: probed(np.concatenate([one.toarray() for one in some], 1), every[name][3]).tolist()
                for name, some in features.items()
            }
            advance(1)
    write_json(OUT, {"texts": n, "chosen": CHOSEN, "auc": found})


def _means(vectors: dict[str, torch.Tensor], whose: np.ndarray, n: int) -> np.ndarray:
    whole = torch.cat([own.flatten(1) for own in vectors.values()], 1).numpy()
    sums = np.zeros((n, whole.shape[1]))
    np.add.at(sums, whose, whole)
    return sums / np.bincount(whose, minlength=n)[:, None]


def show(kept: dict) -> None:
    table = Table("features", *(f"{k} chosen" for k in kept["chosen"]), *DATA.values(), box=None)
    for name, by_data in kept["auc"].items():
        auc = np.array(list(by_data.values())).mean(1)  # [data, chosen]
        low, high = mean_interval(auc, 0)
        cells = [f"{m:.3f} [{a:.3f}, {b:.3f}]" for m, a, b in zip(auc.mean(0), low, high, strict=True)]
        table.add_row(name, *cells, *(f"{one[1]:.2f}" for one in auc))
    Console(width=230, highlight=False).print(table)


if __name__ == "__main__":
    main()
