"""What a bit buys: every kind of bottleneck at the same sites, text and rates, and what it keeps.

Kinds are fitted to what passes some heads and MLP outputs in the plain model, the first position left out, and judged
on held-out text: variance explained; KL and cross-entropy with all heads (or all MLP outputs) replaced by what their
codes stand for; the effect on a task's metric that codes carry. Beside the kinds stand baselines, see
:data:`BASELINES`.

Bits are of the ids of a vector as stored, strengths and coordinates at theirs. What an entropy coder would make of the
ids is told too: by unigrams and by the code before it, both learned on the training text, and by zstd.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.metric import kl_divergence, task_metric
from interp.activations.stream import BATCH_SIZE, batches, end_logits
from interp.bottlenecks.base import SHIPPED, bits_per_vector, bottleneck_class, radices
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.fit import FIT_TOKENS, new_config
from interp.bottlenecks.product_codebook import ProductCodebook
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models import HookFunction, Model, Site, describe_model, hooked, model_device, resolve_site
from interp.progress import Stage, silent
from interp.prompts.pairs import Metric, PromptPair, PromptPairs
from interp.stats import mean_interval, ratio_interval
from interp.tasks import load_task
from interp.text import TextBlocks, load_text

SITES = (
    *("a23.h3", "a20.h0", "a16.h0", "a17.h4", "a20.h8", "a6.h0"),
    *("a20.h7", "a23.h0", "a16.h2", "a17.h8", "a18.h6", "a17.h0"),
    *("m4", "m14", "m24"),
)
"""Of SmolLM2: the four heads of largest exact effect on IOI, greater-than and docstring each, and three MLPs."""
BITS = (4, 9, 18, 36, 72)
KINDS = tuple(
    kind for kind in SHIPPED if kind not in ("layer_norm_codebook", "discrete_sae", "metric_codebook")
)
BASELINES = {
    "random": "vectors of the training text, drawn at random, as codes",
    "pca": "principal coordinates of 16 bits",
    "pca4": "principal coordinates of 4 bits, evenly spaced between the 0.1 and 99.9 % quantile",
    "topk_sae": "a TopK SAE of SAELens, 1024 features, strengths of 16 bits",
}
NOISE = 0.1
"""Length of the noise, in units of a vector's."""
TASKS = ("ioi", "greater-than")
N_PAIRS = 48
SAE_FEATURES, STRENGTH_BITS = 1024, 16


@runtime_checkable
class Coder(Protocol):
    """What is judged: codes of vectors [row, group, d_in], and vectors of codes."""

    bits: float

    def fit(self, x: Float[Tensor, "row group d_in"]) -> Any: ...
    def coded(
        self, x: Float[Tensor, "*batch group d_in"]
    ) -> tuple[Int[Tensor, "*batch group k"] | None, Float[Tensor, "*batch group d_in"]]:
        """Ids, each slot's from 0, unless it has none; and what they stand for."""
        ...

    def sizes(self) -> Sequence[int]:
        """Codes of each slot."""
        ...


class OfKind:
    """A bottleneck of a kind, at about so many bits."""

    def __init__(self, kind: str, bits: int, d_in: int, groups: int, seed: int) -> None:
        cls: Any = bottleneck_class(kind)
        self.book: Dictionary = cls(new_config(cls, {"d_in": d_in, "groups": groups, "seed": seed}, bits))
        self.bits = bits_per_vector(self.book.config)

    def fit(self, x: Tensor) -> None:
        self.book.fit(x if self.book.config.groups > 1 else x[:, 0])

    @torch.no_grad()
    def coded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grouped = self.book.config.groups > 1
        codes = self.book.encode(x if grouped else x[..., 0, :])
        found = codes.ids, self.book.decode(codes)
        ids, decoded = found if grouped else (part.unsqueeze(-2) for part in found)
        if isinstance(self.book, ProductCodebook):
            ids = ids - torch.tensor(self.book.starts[:-1]).to(ids)
        return ids, decoded

    def sizes(self) -> Sequence[int]:
        return radices(self.book.config)


class RandomCodes(OfKind):
    """Vectors that occurred, drawn at random."""

    def __init__(self, bits: int, d_in: int, groups: int, seed: int) -> None:
        super().__init__("vq", bits, d_in, groups, seed)
        self.seed = seed

    def fit(self, x: Tensor) -> None:
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        self.book.codes.data.copy_(x[drawn[: self.book.config.n_codes]].transpose(0, 1))


class Coordinates:
    """Principal coordinates, of 16 bits (as they are) or on a grid of few."""

    def __init__(self, bits: int, d_in: int, each: int) -> None:
        self.n, self.each = bits // each, each
        if not 1 <= self.n <= d_in:
            raise InputError(f"{bits} bits: coordinates take {each} each, and vectors have {d_in}")
        self.bits = float(self.n * each)

    def fit(self, x: Tensor) -> None:
        rows = x.transpose(0, 1)
        self.mean = rows.mean(1)
        apart = rows - self.mean[:, None]
        self.axes = torch.linalg.eigh(apart.mT @ apart).eigenvectors.flip(-1)[..., : self.n]
        found = apart @ self.axes
        quantiles = torch.tensor([0.001, 0.999])
        self.low, self.high = (torch.quantile(found, q, dim=1) for q in quantiles)

    def coded(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        found, ids = torch.einsum("...gd,gdn->...gn", x - self.mean, self.axes), None
        if self.each < 16:
            step = (self.high - self.low) / (2**self.each - 1)
            ids = ((found - self.low) / step).round().clamp(0, 2**self.each - 1)
            found = self.low + ids * step
        decoded = self.mean + torch.einsum("...gn,gdn->...gd", found, self.axes)
        return None if ids is None else ids.int(), decoded

    def sizes(self) -> Sequence[int]:
        return (2**self.each,) * self.n


class TopK:
    """SAELens' TopK SAE, one a group, trained on the same vectors."""

    def __init__(self, bits: int, groups: int, seed: int) -> None:
        each = math.log2(SAE_FEATURES) + STRENGTH_BITS
        self.k, self.groups, self.seed = round(bits / each), groups, seed
        if self.k < 1:
            raise InputError(f"{bits} bits: a feature of {SAE_FEATURES} and its strength take {each:.0f}")
        self.bits = self.k * each

    def fit(self, x: Tensor) -> None:
        from interp.bottlenecks.interop.sae_lens import train_topk

        self.scale = x.std((0, 2), keepdim=True)
        self.saes = [
            train_topk(x[:, group] / self.scale[:, group], SAE_FEATURES, self.k, self.seed)
            for group in range(self.groups)
        ]

    @torch.no_grad()
    def coded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids, decoded = [], []
        for group, sae in enumerate(self.saes):
            acts = sae.encode(x[..., group, :] / self.scale[0, group])
            ids.append(acts.topk(self.k, dim=-1).indices)
            decoded.append(sae.decode(acts) * self.scale[0, group])
        return torch.stack(ids, -2), torch.stack(decoded, -2)

    def sizes(self) -> Sequence[int]:
        return (SAE_FEATURES,) * self.k


def new_coder(kind: str, bits: int, d_in: int, groups: int, seed: int) -> Coder:
    """A kind or a baseline at about so many bits.

    Raises:
        InputError: no such kind, or a rate that it does not reach.
    """
    if kind == "random":
        return RandomCodes(bits, d_in, groups, seed)
    if kind in ("pca", "pca4"):
        return Coordinates(bits, d_in, 16 if kind == "pca" else 4)
    if kind == "topk_sae":
        return TopK(bits, groups, seed)
    return OfKind(kind, bits, d_in, groups, seed)


@dataclass(frozen=True)
class RateConfig:
    """
    Attributes:
        sites: heads and MLP outputs.
        kinds: of bottlenecks, and of :data:`BASELINES`.
        bits: of a vector, about.
        text: training and held-out text; of several sources each is judged apart.
        n_tokens, n_heldout: of training text together, and of held-out text of each source.
        tasks: whose effects codes should carry, of heads.
        seed: of text, prompts and fits.
    """

    sites: Sequence[str] = SITES
    kinds: Sequence[str] = (*KINDS, *BASELINES)
    bits: Sequence[int] = BITS
    text: str = "stdlib+self"
    n_tokens: int = FIT_TOKENS
    n_heldout: int = 768
    context: int = 64
    tasks: Sequence[str] = TASKS
    n_pairs: int = N_PAIRS
    seed: int = 0

    def __post_init__(self) -> None:
        kinds = tuple(kind if ":" in kind else kind.replace("-", "_") for kind in self.kinds)
        object.__setattr__(self, "kinds", kinds)
        for kind in kinds:
            if kind not in BASELINES:
                bottleneck_class(kind)


FORMAT, RATES_FILE = 1, "rates.json"
PARTS = ("heads", "mlps")
"""Sites that are fitted, and spliced in, together."""


_Plain = list[tuple[Float[Tensor, "block pos d_vocab"], Float[Tensor, " block"]]]
"""Log-probabilities and cross-entropies of the model without codes, by batch."""


@dataclass(frozen=True)
class _Batch:
    """Pairs of one length.

    Attributes:
        clean, corrupt: z at the heads.
        effect: fall of the metric with all of z(corrupt) − z(clean) added.
    """

    pairs: Sequence[PromptPair]
    metric: Metric
    clean: Float[Tensor, "batch pos site d"]
    corrupt: Float[Tensor, "batch pos site d"]
    metric_clean: Float[Tensor, " batch"]
    effect: Float[Tensor, " batch"] = field(default_factory=lambda: torch.zeros(0))


class RateBench:
    """The model, the vectors at its sites, and what it does without codes, run once for all kinds.

    Attributes:
        train, held: vectors of training and of held-out text by part, [row, site, d_in]; the first positions left out.
        patched: of each task the pairs, run once.
    """

    def __init__(self, model: Model, config: RateConfig, stage: Stage = silent) -> None:
        self.model, self.config = model, config
        self.places: dict[str, list[Site]] = {part: [] for part in PARTS}
        for name in config.sites:
            place = resolve_site(model, name)
            if place.kind == "attn" and place.head is None:
                raise InputError(f"site {name}: name single heads, such as {name}.h0")
            self.places["heads" if place.kind == "attn" else "mlps"].append(place)
        self.places = {part: places for part, places in self.places.items() if places}
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
        self.held = {part: torch.cat([found[part] for found in held]) for part in self.places}
        pairs = {
            name: load_task(name).sample(model.tokenizer, config.n_pairs, seed=config.seed)
            for name in (config.tasks if "heads" in self.places else ())
        }
        self.patched = {name: self._patched(some) for name, some in pairs.items()}
        self.made_of = {
            "model": describe_model(model),
            "sites": [str(place) for places in self.places.values() for place in places],
            "training": training.fingerprint(),
            "heldout": {text.spec: text.fingerprint() for text in self.texts},
            "pairs": {name: some.digest() for name, some in pairs.items()},
            "seed": config.seed,
        }

    def cell(self, kind: str, bits: int) -> dict[str, Any]:
        """Fit a kind at a rate, and judge it; JSON-ready. ``refused`` where the kind does not reach the rate."""
        found: dict[str, Any] = {"kind": kind, "asked": bits, "seed": self.config.seed, "parts": {}}
        for part, places in self.places.items():
            d_in = self.train[part].shape[-1]
            try:
                coder = new_coder(kind, bits, d_in, len(places), self.config.seed)
            except InputError as error:
                return found | {"refused": str(error)}
            begin = time.perf_counter()
            coder.fit(self.train[part])
            found["parts"][part] = {"bits": coder.bits, "seconds": time.perf_counter() - begin}
            found["parts"][part] |= self._kept(part, coder) | self._spliced(part, coder)
            if part == "heads":
                found["parts"][part]["effects"] = {name: self._effect(name, coder) for name in self.patched}
        return found

    def _kept(self, part: str, coder: Coder) -> dict[str, Any]:
        """What does not need the model: error, use of codes, entropy, noise."""
        x = self.held[part]
        begin = time.perf_counter()
        ids, decoded = coder.coded(x)
        seconds = time.perf_counter() - begin
        error = (x - decoded).square().sum((0, 2))
        explained = 1 - error / (x - x.mean(0)).square().sum((0, 2))
        generator = torch.Generator().manual_seed(self.config.seed)
        noise = torch.randn(x.shape, generator=generator)
        noise = NOISE * noise * (x.norm(dim=-1) / noise.norm(dim=-1))[..., None]
        noisy_ids, noisy = coder.coded(x + noise)
        moved = (noisy - decoded).square().sum() / noise.square().sum()
        found = {
            "explained": float(explained.mean()),
            "explained_of": [round(float(value), 4) for value in explained],
            "encode_seconds": seconds,
            "noise_through": float(moved.sqrt()),
        }
        if ids is None or noisy_ids is None:
            return found
        trained = coder.coded(self.train[part])[0]
        assert trained is not None
        return found | {
            "noise_same": float((noisy_ids == ids).float().mean()),
            **code_lengths(trained, ids, coder.sizes(), self.context - 1),
        }

    def _spliced(self, part: str, coder: Coder) -> dict[str, Any]:
        """Cross-entropy and KL with codes in the place of the vectors, by text."""
        texts = {}
        for text, plain in zip(self.texts, self._plain, strict=True):
            kl, ce = [], []
            with torch.no_grad(), hooked(self.model, self._hooks(part, coder)):
                for tokens, (log_p, plain_ce) in zip(text.tokens.split(BATCH_SIZE), plain, strict=True):
                    log_q = self._log_probabilities(tokens)
                    kl.append(kl_divergence(log_p, log_q).mean(1))
                    ce.append(_ce(log_q, tokens) - plain_ce)
            texts[text.spec] = {
                "kl": _with_interval(torch.cat(kl)),
                "ce": _with_interval(torch.cat(ce)),
                "blocks": len(text.tokens),
            }
        return {"texts": texts}

    def _effect(self, task: str, coder: Coder) -> dict[str, Any]:
        """Share that z + c(corrupt) − c(clean) at all heads has of the effect of z + z(corrupt) − z(clean)."""
        whole, kept = [], []
        for batch in self.patched[task]:
            change = coder.coded(batch.corrupt)[1] - coder.coded(batch.clean)[1]
            kept.append(self._changed(batch, change))
            whole.append(batch.effect)
        full, coded = (torch.cat(some).double().cpu().numpy() for some in (whole, kept))
        low, high = ratio_interval(coded, full, self.config.seed)
        return {
            "share": float(coded.sum() / full.sum()),
            "interval": [low, high],
            "effect": float(full.mean()),
        }

    def _patched(self, pairs: PromptPairs) -> list["_Batch"]:
        """What all kinds are held against: z of both sides at the heads, and the effect of the whole change."""
        found = []
        for one in batches(self.model, pairs, batch_size=BATCH_SIZE):
            clean, corrupt = (
                torch.stack([side.z[p.layer][:, :, p.head] for p in self.places["heads"]], 2).float().cpu()
                for side in (one.clean, one.corrupt)
            )
            batch = _Batch(one.pairs, pairs.metric, clean, corrupt, one.clean.metric)
            found.append(replace(batch, effect=self._changed(batch, corrupt - clean)))
        return found

    @torch.no_grad()
    def _changed(self, batch: "_Batch", move: Float[Tensor, "batch pos site d"]) -> Float[Tensor, " batch"]:
        """How far the metric falls when the heads' z are moved."""
        tokens = torch.tensor([pair.clean_tokens for pair in batch.pairs], device=model_device(self.model))
        logits = end_logits(self.model, tokens, _added(self.places["heads"], move))
        return batch.metric_clean - task_metric(logits, batch.pairs, batch.metric)

    def _vectors(self, text: TextBlocks, done: Callable[[int], None]) -> tuple[dict[str, Tensor], "_Plain"]:
        """What passes the sites by part, and of held-out text what the model says."""
        every = [place for places in self.places.values() for place in places]
        seen: dict[str, list[Tensor]] = {str(place): [] for place in every}

        def keep(here: list[int], x: Tensor) -> None:
            for place in (every[i] for i in here):
                own = x if place.head is None else x[:, :, place.head]
                seen[str(place)].append(own[:, 1:].float().cpu().flatten(0, 1).clone())

        plain: _Plain = []
        with hooked(self.model, _at_hooks(every, keep)):
            for tokens in text.tokens.split(BATCH_SIZE):
                if text.split == "train":  # of which nothing is judged
                    end_logits(self.model, tokens.to(model_device(self.model)))
                else:
                    log_p = self._log_probabilities(tokens)
                    plain.append((log_p, _ce(log_p, tokens)))
                done(1)
        found = {
            part: torch.stack([torch.cat(seen[str(p)]) for p in places], 1)
            for part, places in self.places.items()
        }
        return found, plain

    def _log_probabilities(self, tokens: Tensor) -> Float[Tensor, "block pos d_vocab"]:
        return self.model(tokens.to(model_device(self.model)))[:, :-1].float().log_softmax(-1)

    def _hooks(self, part: str, coder: Coder) -> dict[str, HookFunction]:
        width = len(self.places[part])

        def splice(indices: list[int], x: Tensor) -> Tensor:
            x = x.clone()
            heads = [self.places[part][i].head for i in indices]
            own = torch.stack([x[:, 1:] if head is None else x[:, 1:, head] for head in heads], 2).float()
            whole = own.new_zeros(*own.shape[:2], width, own.shape[-1])
            whole[:, :, indices] = own
            decoded = coder.coded(whole.cpu())[1][:, :, indices].to(x)  # coders are fitted on the CPU
            for i, head in enumerate(heads):
                if head is None:
                    x[:, 1:] = decoded[:, :, i]
                else:
                    x[:, 1:, head] = decoded[:, :, i]
            return x

        return _at_hooks(self.places[part], splice)


def _at_hooks(
    places: Sequence[Site], function: Callable[[list[int], Tensor], Any]
) -> dict[str, HookFunction]:
    """A function at every hook, told which of the sites are there."""
    by_hook: dict[str, list[int]] = {}
    for index, place in enumerate(places):
        by_hook.setdefault(place.hook, []).append(index)
    return {hook: partial(function, indices) for hook, indices in by_hook.items()}


def _added(places: Sequence[Site], move: Float[Tensor, "batch pos site d"]) -> dict[str, HookFunction]:
    def add(indices: list[int], x: Tensor) -> Tensor:
        x = x.clone()
        for i in indices:
            x[:, :, places[i].head] += move[:, :, i].to(x)
        return x

    return _at_hooks(places, add)


def code_lengths(
    trained: Int[Tensor, "training group k"],
    ids: Int[Tensor, "row group k"],
    sizes: Sequence[int],
    length: int,
) -> dict[str, float]:
    """Bits a vector by several coders, averaged over groups and summed over slots, and the share of codes unused.

    ``unigram``: −log2 of the code's smoothed share in the training text. ``bigram``: given the same slot's code at
    the token before, mixed with the unigram (Witten & Bell 1991). ``zstd``: the training ids as 16-bit numbers, slot
    after slot, at level 19. ``entropy``: of the training ids' shares, which no coder of single ids beats on them.

    Args:
        length: rows of a block; a block's first row has no token before it.
    """
    n_groups, dead, totals = ids.shape[1], 0.0, dict.fromkeys(("unigram", "bigram", "entropy", "zstd"), 0.0)
    for group in range(n_groups):
        for slot, size in enumerate(sizes):
            old, new = (part[:, group, slot].long().cpu().numpy() for part in (trained, ids))
            counts = np.bincount(old, minlength=size)
            dead += float((counts == 0).mean())
            share = (counts + 0.5) / (counts.sum() + 0.5 * size)
            totals["unigram"] += float(-np.log2(share[new]).mean())
            some = counts[counts > 0] / counts.sum()
            totals["entropy"] += float(-(some * np.log2(some)).sum())
            totals["bigram"] += _bigram_bits(old, new, share, length)
            packed = pa.Codec("zstd", compression_level=19).compress(
                old.astype(np.uint16).tobytes(), asbytes=True
            )
            totals["zstd"] += 8 * len(packed) / len(old)
    return {f"bits_{name}": total / n_groups for name, total in totals.items()} | {
        "dead": dead / n_groups / len(sizes)
    }


def _bigram_bits(
    old: Int[np.ndarray, " training"],
    new: Int[np.ndarray, " row"],
    share: Float[np.ndarray, " code"],
    length: int,
) -> float:
    def pairs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = ids[: len(ids) // length * length].reshape(-1, length)
        return blocks[:, :-1].ravel(), blocks[:, 1:].ravel()

    size = len(share)
    before, after = pairs(old)
    keys, counts = np.unique(before * size + after, return_counts=True)
    seen, kinds = np.bincount(before, minlength=size), np.bincount(keys // size, minlength=size)
    before, after = pairs(new)
    wanted = before * size + after
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = np.where(keys[at] == wanted, counts[at], 0)
    mixed = (found + kinds[before] * share[after]) / np.maximum(seen[before] + kinds[before], 1)
    chance = np.where(seen[before] > 0, mixed, share[after])
    return float(-np.log2(chance).mean())


def _ce(log_p: Tensor, tokens: Tensor) -> Float[Tensor, " block"]:
    return -log_p.gather(-1, tokens[:, 1:, None].to(log_p.device))[..., 0].mean(1)


def _with_interval(values: Tensor) -> list[float]:
    """Mean and 95 % bootstrap interval over blocks."""
    found = values.double().cpu().numpy()[:, None]
    low, high = mean_interval(found, 0)
    return [float(found.mean()), float(low[0]), float(high[0])]


def measure_rates(
    model: Model, folder: Path, config: RateConfig | None = None, *, stage: Stage = silent
) -> dict[str, Any]:
    """Every kind at every rate, written to ``rates.json`` one by one; goes on where a killed run stopped.

    Raises:
        InputError: no such kind or site, or a folder with results of another model, text or sites.
    """
    config = config or RateConfig()
    bench = RateBench(model, config, stage)
    path = folder / RATES_FILE
    folder.mkdir(parents=True, exist_ok=True)

    def there() -> dict[str, Any]:
        found = read_json(path) if path.is_file() else {"made_of": bench.made_of, "rows": []}
        if found["made_of"] != json.loads(json.dumps(bench.made_of)):
            raise InputError(f"{folder} holds rates of another model, text or sites: choose another folder")
        return {"format": FORMAT, **found}

    known = {(row["kind"], row["asked"]) for row in there()["rows"]}
    work = [(kind, bits) for bits in config.bits for kind in config.kinds]
    with stage("kinds and rates", len(work)) as done:
        for kind, bits in work:
            if (kind, bits) not in known:
                row = bench.cell(kind, bits)
                with FileLock(folder / ".lock"):  # another process may measure other kinds
                    found = there()
                    write_json(path, found | {"rows": [*found["rows"], row]})
            done(1)
    return there()
