"""What a bit buys: every kind of bottleneck at the same sites, text and rates, and what it keeps.

    python -m benchmarks.rates [--kinds vq,residual-vq,file.py:Class] [--bits 9,18] [--out runs/bits]    # resumes

Kinds are fitted to what passes some heads and MLP outputs in the plain model, the first position left out, and judged
on held-out text: variance explained; KL and cross-entropy with all heads (or all MLP outputs) replaced by what their
codes stand for; the effect on a task's metric that codes carry. Beside the kinds stand :data:`BASELINES`.

Bits are of the ids of a vector as stored, strengths and coordinates at theirs. What an entropy coder would make of the
ids is measured too: by unigrams and by the code before it, both learned on the training text, and by zstd.
``rates.json`` has all numbers, ``rates.html`` draws the KL.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import torch
from filelock import FileLock
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.coders import BASELINES, KINDS, Coder, new_coder
from benchmarks.common import interval, print_table
from interp import DEFAULT_MODEL
from interp.activations.metric import kl_divergence, task_metric
from interp.activations.stream import BATCH_SIZE, batches, end_logits
from interp.bottlenecks.base import bottleneck_class
from interp.bottlenecks.fit import FIT_TOKENS
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models import HookFunction, Model, Site, describe_model, hooked, load_model, model_device, resolve_site
from interp.progress import Stage, bar, silent
from interp.prompts.pairs import Metric, PromptPair, PromptPairs
from interp.report.style import BLUE, GREEN, GREY, ORANGE, layout, whiskers
from interp.stats import mean_interval, ratio_interval
from interp.tasks import load_task
from interp.text import TextBlocks, load_text, open_sources

SITES = (
    *("a23.h3", "a20.h0", "a16.h0", "a17.h4", "a20.h8", "a6.h0"),
    *("a20.h7", "a23.h0", "a16.h2", "a17.h8", "a18.h6", "a17.h0"),
    *("m4", "m14", "m24"),
)
"""Of SmolLM2: the four heads of largest exact effect on IOI, greater-than and docstring each, and three MLPs."""
NOISE = 0.1
"""Length of the noise, in units of a vector's."""


@dataclass(frozen=True)
class RateConfig:
    """What is measured: text of several sources is judged apart, ``n_heldout`` tokens of each; tasks are those whose
    effects codes of heads should carry."""

    sites: Sequence[str] = SITES
    kinds: Sequence[str] = (*KINDS, *BASELINES)
    bits: Sequence[int] = (4, 9, 18, 36, 72)
    text: str = "stdlib+self"
    n_tokens: int = FIT_TOKENS
    n_heldout: int = 768
    context: int = 64
    tasks: Sequence[str] = ("ioi", "greater-than")
    n_pairs: int = 48
    seed: int = 0


PARTS = ("heads", "mlps")
"""Sites that are fitted, and spliced in, together."""
_Plain = list[tuple[Float[Tensor, "block pos d_vocab"], Float[Tensor, " block"]]]
"""Log-probabilities and cross-entropies of the model without codes, by batch."""


@dataclass(frozen=True)
class _Batch:
    """Pairs of one length, z of both sides at the heads, and the metric on the clean side."""

    pairs: Sequence[PromptPair]
    metric: Metric
    clean: Float[Tensor, "batch pos site d"]
    corrupt: Float[Tensor, "batch pos site d"]
    metric_clean: Float[Tensor, " batch"]


class RateBench:
    """The model, the vectors at its sites, and what it does without codes, run once for all kinds.

    Attributes:
        train, held: vectors of training and of held-out text by part, [row, site, d_in]; the first positions left out.
        patched: batches of each task's pairs, each with the fall of the metric where z(corrupt) stands at all heads.
    """

    def __init__(self, model: Model, config: RateConfig, stage: Stage = silent) -> None:
        self.model, self.config = model, config
        self.places: dict[str, list[Site]] = {}
        places = [resolve_site(model, name) for name in config.sites]
        for part, is_head in zip(PARTS, (True, False), strict=True):
            if its := [place for place in places if (place.kind == "attn") == is_head]:
                self.places[part] = its
        for place in self.places.get("heads", ()):
            if place.head is None:
                raise InputError(f"site {place}: name single heads, such as {place}.h0")
        self.context = min(config.context, model.cfg.n_ctx)
        options: dict[str, Any] = {"context": self.context, "seed": config.seed, "stage": stage}
        training = load_text(config.text, model, n_tokens=config.n_tokens, **options)
        self.texts = [
            load_text(spec, model, n_tokens=config.n_heldout, split="heldout", **options)
            for spec in config.text.split("+")
        ]
        n_batches = sum(-(-len(text.tokens) // BATCH_SIZE) for text in (training, *self.texts))
        with torch.no_grad(), stage("running the model", n_batches) as done:
            self.train, _ = self._vectors(training, done)
            held, self._plain = zip(*(self._vectors(text, done) for text in self.texts), strict=True)
        self.held = {part: torch.cat([vectors[part] for vectors in held]) for part in self.places}
        pairs = {
            name: load_task(name).sample(model.tokenizer, config.n_pairs, seed=config.seed)
            for name in (config.tasks if "heads" in self.places else ())
        }
        self.patched = {name: self._patched(its) for name, its in pairs.items()}
        self.made_of = {
            "model": describe_model(model),
            "sites": [str(place) for its in self.places.values() for place in its],
            "training": training.fingerprint(),
            "heldout": {text.spec: text.fingerprint() for text in self.texts},
            "pairs": {name: its.digest() for name, its in pairs.items()},
            "seed": config.seed,
        }

    def cell(self, kind: str, bits: int) -> dict[str, Any]:
        """Fit a kind at a rate, and judge it; JSON-ready. ``refused`` where the kind does not reach the rate."""
        parts: dict[str, dict] = {}
        row = {"kind": kind, "asked": bits, "seed": self.config.seed, "parts": parts}
        for part, places in self.places.items():
            try:
                coder = new_coder(kind, bits, self.train[part].shape[-1], len(places), self.config.seed)
            except InputError as error:
                return row | {"refused": str(error)}
            begin = time.perf_counter()
            coder.fit(self.train[part])
            parts[part] = {"bits": coder.bits, "seconds": time.perf_counter() - begin}
            parts[part] |= self._kept(part, coder) | self._spliced(part, coder)
            if part == "heads":
                parts[part]["effects"] = {name: self._effect(name, coder) for name in self.patched}
        return row

    def _kept(self, part: str, coder: Coder) -> dict[str, Any]:
        """What does not need the model: error, use of codes, entropy, noise."""
        x = self.held[part]
        begin = time.perf_counter()
        ids, decoded = coder.coded(x)
        seconds = time.perf_counter() - begin
        explained = 1 - (x - decoded).square().sum((0, 2)) / (x - x.mean(0)).square().sum((0, 2))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.config.seed))
        noise = NOISE * noise * (x.norm(dim=-1) / noise.norm(dim=-1))[..., None]
        noisy_ids, noisy = coder.coded(x + noise)
        kept = {
            "explained": float(explained.mean()),
            "explained_of": [round(float(value), 4) for value in explained],
            "encode_seconds": seconds,
            "noise_through": float(((noisy - decoded).square().sum() / noise.square().sum()).sqrt()),
        }
        if ids is None:
            return kept
        trained, _ = coder.coded(self.train[part])
        lengths = code_lengths(trained, ids, coder.sizes(), self.context - 1)
        return kept | {"noise_same": float((noisy_ids == ids).float().mean()), **lengths}

    def _spliced(self, part: str, coder: Coder) -> dict[str, Any]:
        """Cross-entropy and KL with codes in the place of the vectors, by text."""
        texts = {}
        for text, plain in zip(self.texts, self._plain, strict=True):
            kl, ce = [], []
            with torch.no_grad(), hooked(self.model, self._splicing(part, coder)):
                for tokens, (log_p, plain_ce) in zip(text.tokens.split(BATCH_SIZE), plain, strict=True):
                    log_q = self._log_probabilities(tokens)
                    kl.append(kl_divergence(log_p, log_q).mean(1))
                    ce.append(_ce(log_q, tokens) - plain_ce)
            texts[text.spec] = {"kl": _with_interval(kl), "ce": _with_interval(ce), "blocks": len(text.tokens)}
        return {"texts": texts}

    def _effect(self, task: str, coder: Coder) -> dict[str, Any]:
        """Share that z + c(corrupt) − c(clean) at all heads has of the effect of z + z(corrupt) − z(clean)."""
        coded = [
            self._changed(batch, coder.coded(batch.corrupt)[1] - coder.coded(batch.clean)[1])
            for batch, _ in self.patched[task]
        ]
        whole = [effect for _, effect in self.patched[task]]
        kept, full = (torch.cat(effects).double().cpu().numpy() for effects in (coded, whole))
        interval = ratio_interval(kept, full, self.config.seed)
        share, effect = float(kept.sum() / full.sum()), float(full.mean())
        return {"share": share, "interval": list(interval), "effect": effect}

    def _patched(self, pairs: PromptPairs) -> list[tuple[_Batch, Tensor]]:
        patched = []
        for runs in batches(self.model, pairs, batch_size=BATCH_SIZE):
            clean, corrupt = (
                torch.stack([side.z[p.layer][:, :, p.head] for p in self.places["heads"]], 2).float().cpu()
                for side in (runs.clean, runs.corrupt)
            )
            batch = _Batch(runs.pairs, pairs.metric, clean, corrupt, runs.clean.metric)
            patched.append((batch, self._changed(batch, corrupt - clean)))
        return patched

    @torch.no_grad()
    def _changed(self, batch: _Batch, move: Float[Tensor, "batch pos site d"]) -> Float[Tensor, " batch"]:
        """How far the metric falls when the heads' z are moved."""
        places = self.places["heads"]

        def add(indices: list[int], x: Tensor) -> Tensor:
            x = x.clone()
            for i in indices:
                x[:, :, places[i].head] += move[:, :, i].to(x)
            return x

        tokens = torch.tensor([pair.clean_tokens for pair in batch.pairs], device=model_device(self.model))
        logits = end_logits(self.model, tokens, _at_hooks(places, add))
        return batch.metric_clean - task_metric(logits, batch.pairs, batch.metric)

    def _vectors(self, text: TextBlocks, done: Callable[[int], None]) -> tuple[dict[str, Tensor], _Plain]:
        """What passes the sites by part, and of held-out text what the model says."""
        every = [place for places in self.places.values() for place in places]
        seen: dict[str, list[Tensor]] = {str(place): [] for place in every}

        def keep(indices: list[int], x: Tensor) -> None:
            for place in (every[i] for i in indices):
                vectors = x if place.head is None else x[:, :, place.head]
                seen[str(place)].append(vectors[:, 1:].float().cpu().flatten(0, 1).clone())

        plain: _Plain = []
        with hooked(self.model, _at_hooks(every, keep)):
            for tokens in text.tokens.split(BATCH_SIZE):
                if text.split == "train":  # of which nothing is judged
                    end_logits(self.model, tokens.to(model_device(self.model)))
                else:
                    log_p = self._log_probabilities(tokens)
                    plain.append((log_p, _ce(log_p, tokens)))
                done(1)
        vectors = {
            part: torch.stack([torch.cat(seen[str(place)]) for place in places], 1)
            for part, places in self.places.items()
        }
        return vectors, plain

    def _log_probabilities(self, tokens: Tensor) -> Float[Tensor, "block pos d_vocab"]:
        return self.model(tokens.to(model_device(self.model)))[:, :-1].float().log_softmax(-1)

    def _splicing(self, part: str, coder: Coder) -> dict[str, HookFunction]:
        places = self.places[part]

        def splice(indices: list[int], x: Tensor) -> Tensor:
            x = x.clone()
            parts = [x[:, 1:] if places[i].head is None else x[:, 1:, places[i].head] for i in indices]
            vectors = torch.zeros(*parts[0].shape[:2], len(places), parts[0].shape[-1])
            vectors[:, :, indices] = torch.stack(parts, 2).float().cpu()  # coders are fitted on the CPU
            decoded = coder.coded(vectors)[1]
            for i, view in zip(indices, parts, strict=True):
                view.copy_(decoded[:, :, i])
            return x

        return _at_hooks(places, splice)


def _at_hooks(places: Sequence[Site], function: Callable[[list[int], Tensor], Any]) -> dict[str, HookFunction]:
    """A function at every hook, given the indices of the sites that are there."""
    by_hook: dict[str, list[int]] = {}
    for index, place in enumerate(places):
        by_hook.setdefault(place.hook, []).append(index)
    return {hook: partial(function, indices) for hook, indices in by_hook.items()}


def code_lengths(
    trained: Int[Tensor, "training group k"], ids: Int[Tensor, "row group k"], sizes: Sequence[int], length: int
) -> dict[str, float]:
    """Bits a vector by several coders, averaged over groups and summed over slots, and the share of codes unused.

    ``unigram``: −log2 of the code's smoothed share in the training text. ``bigram``: given the same slot's code at
    the token before, mixed with the unigram (Witten & Bell 1991). ``zstd``: the training ids as 16-bit numbers, slot
    after slot, at level 19. ``entropy``: of the training ids' shares, which no coder of single ids beats on them.

    Args:
        length: rows of a block; a block's first row has no token before it.
    """
    n_groups, dead, totals = ids.shape[1], 0.0, dict.fromkeys(("unigram", "bigram", "entropy", "zstd"), 0.0)
    zstd = pa.Codec("zstd", compression_level=19)
    for group in range(n_groups):
        for slot, size in enumerate(sizes):
            old, new = (part[:, group, slot].long().cpu().numpy() for part in (trained, ids))
            counts = np.bincount(old, minlength=size)
            dead += float((counts == 0).mean())
            share = (counts + 0.5) / (counts.sum() + 0.5 * size)
            used = counts[counts > 0] / counts.sum()
            totals["unigram"] += float(-np.log2(share[new]).mean())
            totals["entropy"] += float(-(used * np.log2(used)).sum())
            totals["bigram"] += _bigram_bits(old, new, share, length)
            packed = zstd.compress(old.astype(np.uint16).tobytes(), asbytes=True)
            totals["zstd"] += 8 * len(packed) / len(old)
    bits = {f"bits_{name}": total / n_groups for name, total in totals.items()}
    return bits | {"dead": dead / n_groups / len(sizes)}


def _bigram_bits(
    old: Int[np.ndarray, " training"], new: Int[np.ndarray, " row"], share: Float[np.ndarray, " code"], length: int
) -> float:
    def pairs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = ids[: len(ids) // length * length].reshape(-1, length)
        return blocks[:, :-1].ravel(), blocks[:, 1:].ravel()

    size = len(share)
    before, after = pairs(old)
    counts = np.bincount(before * size + after, minlength=size**2).reshape(size, size)
    seen, kinds = counts.sum(1), (counts > 0).sum(1)
    before, after = pairs(new)
    mixed = (counts[before, after] + kinds[before] * share[after]) / np.maximum(seen + kinds, 1)[before]
    chance = np.where(seen[before] > 0, mixed, share[after])
    return float(-np.log2(chance).mean())


def _ce(log_p: Tensor, tokens: Tensor) -> Float[Tensor, " block"]:
    return -log_p.gather(-1, tokens[:, 1:, None].to(log_p.device))[..., 0].mean(1)


def _with_interval(by_batch: list[Tensor]) -> list[float]:
    """Mean and 95 % bootstrap interval over blocks."""
    values = torch.cat(by_batch).double().cpu().numpy()[:, None]
    low, high = mean_interval(values, 0)
    return [float(values.mean()), float(low[0]), float(high[0])]


def measure_rates(model: Model, folder: Path, config: RateConfig, *, stage: Stage = silent) -> dict[str, Any]:
    """Every kind at every rate, written to ``rates.json`` one by one; goes on where a killed run stopped.

    Raises:
        InputError: no such kind or site, or a folder with results of another model, text or sites.
    """
    bench = RateBench(model, config, stage)
    path = folder / "rates.json"
    folder.mkdir(parents=True, exist_ok=True)

    def there() -> dict[str, Any]:
        result = read_json(path) if path.is_file() else {"made_of": bench.made_of, "rows": []}
        if result["made_of"] != json.loads(json.dumps(bench.made_of)):
            raise InputError(f"{folder} holds rates of another model, text or sites: choose another folder")
        return {"format": 1, **result}

    known = {(row["kind"], row["asked"]) for row in there()["rows"]}
    work = [(kind, bits) for bits in config.bits for kind in config.kinds]
    with stage("kinds and rates", len(work)) as done:
        for kind, bits in work:
            if (kind, bits) not in known:
                row = bench.cell(kind, bits)
                with FileLock(folder / ".lock"):  # another process may measure other kinds
                    result = there()
                    write_json(path, result | {"rows": [*result["rows"], row]})
            done(1)
    return there()


def _kl(cell: dict) -> np.ndarray:
    """Nats a token and the ends of its 95 % interval, the mean over texts."""
    return np.mean([text["kl"] for text in cell["texts"].values()], 0)


def show(result: dict) -> None:
    """Of every kind at every rate: KL with codes in place and variance explained, the effect that codes carry, and the
    share of them that noise leaves alone."""
    rows = [row for row in result["rows"] if "refused" not in row]
    asked = sorted({row["asked"] for row in rows})
    columns = ("kind", *(f"{bits} bits" for bits in asked))
    for part in dict.fromkeys(part for row in rows for part in row["parts"]):
        there = {(row["kind"], row["asked"]): row["parts"][part] for row in rows if part in row["parts"]}
        measures: dict[str, Callable[[dict], str | None]] = {"KL, nats a token (variance explained)": _cost}
        for task in next(iter(there.values())).get("effects", ()):
            measures[f"share of the effect on {task} that codes carry"] = partial(_carried, task=task)
        measures["share of codes that noise leaves alone"] = _same
        for title, text in measures.items():
            table = [
                (kind, *(text(there[kind, bits]) if (kind, bits) in there else None for bits in asked))
                for kind in dict.fromkeys(kind for kind, _ in there)
            ]
            print_table(columns, table, f"{part}: {title}")


def _cost(cell: dict) -> str:
    return f"{_kl(cell)[0]:.3f} ({cell['explained']:.2f})"


def _same(cell: dict) -> str | None:
    return f"{cell['noise_same']:.2f}" if "noise_same" in cell else None


def _carried(cell: dict, task: str) -> str:
    effect = cell["effects"][task]
    return interval(effect["share"], *effect["interval"])


def plot(result: dict, part: str) -> go.Figure:
    """KL against bits, a line a kind; those that are beaten at every rate are grey."""
    points = [(row["kind"], row["parts"][part]) for row in result["rows"] if part in row["parts"]]
    points.sort(key=lambda point: point[1]["bits"])
    best = {
        kind
        for kind, cell in points
        if _kl(cell)[0] == min(_kl(other)[0] for _, other in points if other["bits"] <= cell["bits"])
    }
    palette = iter((BLUE, GREEN, ORANGE, "#b0529c", "#7a6ad0", "#4aa3a3"))
    figure = go.Figure()
    for kind in sorted(dict(points), key=lambda kind: (kind not in best, kind)):
        cells = [cell for name, cell in points if name == kind]
        ends = [_kl(cell).tolist() for cell in cells]
        figure.add_scatter(
            x=[cell["bits"] for cell in cells],
            y=[mean for mean, *_ in ends],
            error_y=whiskers(ends, thickness=1, width=2) if kind in best else None,
            mode="lines+markers",
            name=kind.replace("_", "-"),
            marker={"color": next(palette, GREY) if kind in best else GREY, "size": 7},
            line={"width": 2.5 if kind in best else 1},
            opacity=1 if kind in best else 0.55,
            customdata=[cell["explained"] for cell in cells],
            hovertemplate="%{fullData.name}, %{x:.0f} bits: %{y:.3f}, explains %{customdata:.2f}<extra></extra>",
        )
    figure.update_xaxes(title="bits of a vector, as stored", type="log", tickvals=[4, 9, 18, 36, 72])
    figure.update_yaxes(title=f"KL with codes at all {part}, nats a token", rangemode="tozero")
    return layout(figure, height=460, left=60, legend=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = RateConfig()
    parser.add_argument("--kinds", help="separated by commas; or file.py:Class (default: all, and baselines)")
    parser.add_argument("--bits", default="4,9,18,36,72", help="of a vector, about; separated by commas")
    parser.add_argument("--sites", help="single heads and MLPs (default: those of benchmarks/TABLES.md)")
    parser.add_argument("--model", "-m", default=DEFAULT_MODEL)
    parser.add_argument("--data", default=default.text, help="text, see docs/codebooks.md")
    parser.add_argument("--tokens", type=int, default=FIT_TOKENS, help="of training text")
    parser.add_argument("--heldout", type=int, default=default.n_heldout, help="tokens of held-out text of each source")
    parser.add_argument("--out", type=Path, default=Path("runs/bits"), help="folder of the results, gone on with")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of text, prompts and fits")
    parser.add_argument("--device")
    given = parser.parse_args()
    kinds = given.kinds.split(",") if given.kinds else default.kinds
    config = RateConfig(
        sites=given.sites.split(",") if given.sites else SITES,
        kinds=[kind if ":" in kind else kind.replace("-", "_") for kind in kinds],
        bits=[int(bits) for bits in given.bits.split(",")],
        text=given.data,
        n_tokens=given.tokens,
        n_heldout=given.heldout,
        seed=given.seed,
    )
    try:
        open_sources(given.data)
        for kind in config.kinds:
            if kind not in BASELINES:
                bottleneck_class(kind)
        if given.overwrite:
            (given.out / "rates.json").unlink(missing_ok=True)
        result = measure_rates(load_model(given.model, device=given.device), given.out, config, stage=bar)
    except InputError as error:
        parser.error(str(error))
    show(result)
    parts = [part for part in PARTS if any(part in row["parts"] for row in result["rows"])]
    figures = [plot(result, part).to_html(include_plotlyjs=not i) for i, part in enumerate(parts)]
    (given.out / "rates.html").write_text("\n".join(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
