"""What it costs a model to pass its activations through codebooks, on held-out text and against controls.

All books are in place at once. Next to the codes stand, at the same sites:

* ``zero``: the activation is zero;
* ``mean``: it is its mean over other text of the same source (the first position, which is the same in every text,
  has a mean of its own: without that the control would be easy to beat);
* ``random directions``: books of random directions, each code as long as the fitted one, chosen by the same rule;
* ``random ids``: the fitted books, their ids drawn evenly.

Controls are many times worse than codes, so a part of the blocks is enough for them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.metric import kl_divergence
from interp.bottlenecks import NO_CODE, Bottleneck, Codes, Dictionary
from interp.bottlenecks.attach import Attached, attach
from interp.bottlenecks.base import bits_per_vector, code_sets, count_codes, distinct, grouped_rows
from interp.bottlenecks.store import Codebooks
from interp.bottlenecks.wrapper import CodebookWrapper
from interp.errors import InputError
from interp.models import Model, hooked, model_device, parse_site, resolve_site
from interp.progress import Stage, silent
from interp.stats import mean_interval
from interp.text import TextBlocks, load_text


class UsageMeter:
    """Watches books at their sites over any number of forward passes.

    The first position is left out of the variance: it is the same in every text and, in many models, many times as long
    as all others. What a book is measured on is what reaches it when the other books are in place too.
    """

    def __init__(self, books: Mapping[str, Dictionary]) -> None:
        self._wrappers = {site: _QualityWrapper(book) for site, book in books.items()}

    def watching(self, books: Mapping[str, Dictionary]) -> dict[str, Bottleneck]:
        """The books to attach."""
        return {site: self._wrappers[site] for site in books}

    def count(self, attached: Attached) -> None:
        """Count the codes of the last forward pass."""
        for site, codes in attached.codes.items():
            self._wrappers[site].count(codes)

    def summary(self) -> dict[str, Any]:
        """Numbers over all sites, and over the groups (heads) of all sites.

        ``variance_explained_*`` of a group is 1 − |x − x̂|² / |x − mean|²; below 0 its mean alone would be better.
        ``bits_per_token`` sums the entropies of slots over groups, an upper bound: slots tell of each other, and where
        they share codes their order tells nothing. An entropy is that of the counts, which few tokens underestimate.
        ``dead_on_text`` are the codes that did not occur here, ``dead_when_fitted`` those that did not on the text that
        they were fitted on.
        """
        parts = list(self._wrappers.values())
        explained = np.concatenate([part.explained().cpu().numpy() for part in parts])
        bits = np.concatenate([part.bits().numpy() for part in parts])
        k = np.concatenate([np.full(part.config.groups, part.config.k) for part in parts])
        most = sum(part.config.groups * bits_per_vector(part.config) for part in parts)
        sites = [float(part.explained(together=True)) for part in parts]
        return {
            "variance_explained_mean": float(explained.mean()),
            "variance_explained_min": float(explained.min()),
            "variance_explained_positive": float((explained > 0).mean()),
            "variance_explained_sites": dict(zip(self._wrappers, sites, strict=True)),
            "dead_on_text": float(torch.cat([(p.counts == 0).flatten() for p in parts]).float().mean()),
            "dead_when_fitted": float(torch.cat([(p.book.counts == 0).flatten() for p in parts]).float().mean()),
            "entropy_bits": float((bits / k).mean()),
            "bits_per_token": float(bits.sum()),
            "bits_per_token_most": most,
            "active_codes": float(sum(p.active for p in parts) / sum(p.n_vectors for p in parts)),
            "n_groups": len(explained),
        }


class _RandomIds(CodebookWrapper):
    """A book that answers with ids at random, each as strong as the right one."""

    def __init__(self, book: Dictionary, generator: torch.Generator) -> None:
        super().__init__(book)
        self.generator = generator

    def encode(self, x: Tensor) -> Codes:
        codes = self.book.encode(x)
        ids = torch.randint(self.config.n_codes, codes.ids.shape, generator=self.generator)
        return Codes(ids.to(codes.ids), codes.values)


class _QualityWrapper(CodebookWrapper):
    """A book that keeps sums of what passes; it is the book in everything else."""

    def __init__(self, book: Dictionary) -> None:
        super().__init__(book)
        self.counts = torch.zeros_like(book.counts)
        self.active = self.n_vectors = 0
        self._x: Tensor
        self._n = 0
        self._shift: Tensor | None = None
        self._sum = self._square = self._error = torch.zeros((), dtype=torch.float64)

    def encode(self, x: Tensor) -> Codes:
        self._x = x
        return self.book.encode(x)

    def decode(self, codes: Codes) -> Tensor:
        decoded = self.book.decode(codes)
        x, coded = (grouped_rows(part[:, 1:], self.config) for part in (self._x, decoded))
        if self._shift is None:
            # some heads' vectors lie so far from zero and so close together that squares of x itself cancel to nothing
            self._shift = x.mean(1, keepdim=True)
        shifted = x - self._shift
        self._n += x.shape[1]
        self._sum = self._sum + shifted.sum(1).cpu().double()
        self._square = self._square + shifted.square().sum((1, 2)).cpu().double()
        self._error = self._error + (x - coded).square().sum((1, 2)).cpu().double()
        return decoded

    def count(self, codes: Codes) -> None:
        used = codes.ids.masked_fill(codes.values == 0, NO_CODE)
        self.counts += count_codes(used, self.config.n_codes, self.config.groups)
        self.active += int((distinct(used) != NO_CODE).sum())
        self.n_vectors += used[..., 0].numel()

    def explained(self, *, together: bool = False) -> Tensor:
        """Variance explained per group, or of the site as a whole."""
        variance = self._square - self._sum.square().sum(-1) / self._n
        if together:
            return 1 - self._error.sum() / variance.sum().clamp(min=1e-30)
        return 1 - self._error / variance.clamp(min=1e-30)

    def bits(self) -> Tensor:
        """Entropy of a vector's ids by group: of slots with codes of their own the sum, else k times that of all."""
        parts = code_sets(self.config)
        entropy = torch.zeros(self.config.groups)
        for counts in self.counts.cpu().split(parts, -1):
            share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
            entropy -= (share * share.clamp(min=1e-30).log2()).sum(-1)
        return entropy * self.config.k / len(parts)


FORMAT = 1
BATCH_SIZE, CONTROL_BLOCKS = 16, 16
CONTROLS = ("zero", "mean", "random directions", "random ids")


@dataclass(frozen=True)
class BlockScores:
    """Means over the predicted positions of each block, [block]; all but the first position are predicted."""

    ce: Float[np.ndarray, " block"]  # cross-entropy of the next token, nats
    kl: Float[np.ndarray, " block"]  # KL(plain model ‖ this one), nats per token
    right: Float[np.ndarray, " block"]  # how often the likeliest token is the next one
    same: Float[np.ndarray, " block"]  # how often it is the plain model's likeliest


@dataclass(frozen=True)
class CodebookScores:
    text: TextBlocks
    plain: BlockScores  # the model without codes
    # by ``codes k=8`` and by the controls' names; controls cover the first blocks only
    scores: Mapping[str, BlockScores]
    # per k, see :meth:`~interp.evaluation.codebook_quality.UsageMeter.summary`
    usage: Mapping[int, Mapping[str, float]]

    def rows(self, seed: int = 0) -> list[dict]:
        """One JSON-ready row per condition: means, and the CE increase with a 95 % bootstrap interval over blocks."""
        return [_row(name, scores, self.plain, seed) for name, scores in {"plain": self.plain, **self.scores}.items()]


def evaluate_codebooks(
    model: Model,
    books: Mapping[int, Mapping[str, Dictionary]],
    text: TextBlocks,
    other_text: TextBlocks,
    *,
    batch_size: int = BATCH_SIZE,
    control_blocks: int = CONTROL_BLOCKS,
    seed: int = 0,
    stage: Stage = silent,
) -> CodebookScores:
    """Run the text plain, through the codes of every k, and through the controls (of the largest k).
    :class:`InputError`: no books, or a single block, of text or for the controls.

    Args:
        books: for each k the books by site, see :func:`~interp.bottlenecks.store.Codebooks.from_pretrained`.
        text: held-out blocks.
        other_text: what the means of ``mean`` are taken over; not ``text``.
        control_blocks: blocks for the controls; 0 leaves them out.
    """
    if not books or not all(books.values()):
        raise InputError("no codebooks to evaluate")
    if len(text.tokens) < 2:
        raise InputError("one block of text: an interval over blocks needs at least two")
    if control_blocks == 1:
        raise InputError("controls on 1 block: an interval needs at least 2, and 0 leaves controls out")
    control_blocks = min(control_blocks, len(text.tokens))
    parts: dict[str, list[BlockScores]] = {}
    meters = {k: UsageMeter(by_site) for k, by_site in books.items()}
    n_means = len(other_text.tokens) if control_blocks else 0
    total = len(text.tokens) * (1 + len(books)) + n_means + control_blocks * len(CONTROLS)
    with torch.no_grad(), stage(f"evaluating on {text.spec}", total) as advance:
        controls: dict[str, Callable] = {}
        if control_blocks:
            controls = _controls(model, books[max(books)], other_text, batch_size, seed, advance)

        def score(name: str, tokens: Tensor, plain: Tensor | None = None) -> Tensor:
            log_p = model(tokens)[:, :-1].float().log_softmax(-1)
            plain = log_p if plain is None else plain[: len(tokens)]
            parts.setdefault(name, []).append(_scores(log_p, plain, tokens))
            advance(len(tokens))
            return log_p

        left = control_blocks
        for batch in text.tokens.split(batch_size):
            batch = batch.to(model_device(model))
            plain = score("plain", batch)
            for k, by_site in books.items():
                with attach(model, meters[k].watching(by_site), error_term=False) as attached:
                    score(f"codes k={k}", batch, plain)
                    meters[k].count(attached)
            for name, condition in controls.items() if left > 0 else ():
                with condition():
                    score(name, batch[:left], plain)
            left -= len(batch)
    joined = {name: _joined(scores) for name, scores in parts.items()}
    usage = {k: meter.summary() for k, meter in meters.items()}
    return CodebookScores(text, joined.pop("plain"), joined, usage)


def _controls(
    model: Model,
    books: Mapping[str, Dictionary],
    other_text: TextBlocks,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, Callable]:
    """Contexts in which the model runs under each control, by name."""
    means = mean_activations(model, list(books), other_text.tokens, batch_size, advance)

    def replaced(values: Mapping[str, Tensor]) -> Callable:
        def replace(sites: list[str], x: Tensor) -> Tensor:
            x = x.clone()
            for site in sites:
                part, value = _at(x, site), values[site].to(x.dtype)
                part[:, 0], part[:, 1:] = value
            return x

        return lambda: hooked(model, _by_hook(model, books, replace))

    random_books = {site: random_directions(book, seed + i) for i, (site, book) in enumerate(books.items())}
    generator = torch.Generator().manual_seed(seed)

    return {
        "zero": replaced({site: torch.zeros_like(mean) for site, mean in means.items()}),
        "mean": replaced(means),
        "random directions": lambda: attach(model, random_books, error_term=False),
        "random ids": lambda: attach(
            model, {site: _RandomIds(book, generator) for site, book in books.items()}, error_term=False
        ),
    }


def _at(x: Tensor, site: str) -> Tensor:
    """What is a site's own of what passes its hook, as a view."""
    head = parse_site(site).head
    return x if head is None else x[:, :, head]


def _by_hook(model: Model, sites: Iterable[str], function: Callable[[list[str], Tensor], Any]) -> dict:
    """A function at every hook, given which of the sites are there: several heads of one layer share a hook point."""
    by_hook: dict[str, list[str]] = {}
    for site in sites:
        by_hook.setdefault(resolve_site(model, site).hook, []).append(site)
    return {hook: partial(function, at_hook) for hook, at_hook in by_hook.items()}


@torch.no_grad()
def mean_activations(
    model: Model,
    sites: Sequence[str],
    tokens: Int[Tensor, "block pos"],
    batch_size: int = BATCH_SIZE,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Float[Tensor, " 2 *site"]]:
    """Mean activation of every site in the plain model: at the first position, and over all others."""
    sums: dict[str, Tensor] = {}

    def keep(at_hook: list[str], x: Tensor) -> None:
        for site in at_hook:
            part = _at(x, site).float()
            new = torch.stack([part[:, 0].sum(0), part[:, 1:].sum((0, 1))])
            sums[site] = sums[site] + new if site in sums else new

    with hooked(model, {**_by_hook(model, sites, keep), "unembed.hook_in": lambda x: x[:1, -1:]}):
        for batch in tokens.split(batch_size):
            model(batch.to(model_device(model)))
            advance(len(batch))
    n, positions = tokens.shape
    counts = torch.tensor([n, n * (positions - 1)])
    return {site: total / counts.to(total).reshape(2, *[1] * (total.ndim - 1)) for site, total in sums.items()}


def random_directions(book: Dictionary, seed: int) -> Dictionary:
    """A book of the same configuration with codes in random directions, each as long as before."""
    generator = torch.Generator().manual_seed(seed)
    codes = book.codes.detach().float().cpu()
    drawn = torch.nn.functional.normalize(torch.randn(codes.shape, generator=generator), dim=-1)
    tensors = dict(book.tensors()) | {"codes": (drawn * codes.norm(dim=-1, keepdim=True)).to(book.codes.dtype)}
    return book.restored(book.config, tensors).to(book.device)


def _scores(
    log_p: Float[Tensor, "block pos d_vocab"], plain: Float[Tensor, "block pos d_vocab"], tokens: Tensor
) -> BlockScores:
    """From log-probabilities."""
    following = tokens[:, 1:]
    ce = -log_p.gather(-1, following[..., None])[..., 0]
    kl = torch.zeros_like(ce) if log_p is plain else kl_divergence(plain, log_p)
    best = log_p.argmax(-1)
    values = (ce, kl, (best == following).float(), (best == plain.argmax(-1)).float())
    return BlockScores(*(value.cpu().double().mean(1).numpy() for value in values))


def _joined(parts: list[BlockScores]) -> BlockScores:
    return BlockScores(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def _row(name: str, scores: BlockScores, plain: BlockScores, seed: int) -> dict:
    n = len(scores.ce)
    increase = scores.ce - plain.ce[:n]
    low, high = mean_interval(increase[:, None], seed)
    return {
        "condition": name,
        "n_blocks": n,
        "ce": float(scores.ce.mean()),
        "ce_increase": float(increase.mean()),
        "ce_increase_low": float(low[0]),
        "ce_increase_high": float(high[0]),
        "kl": float(scores.kl.mean()),
        "accuracy": float(scores.right.mean()),
        "agreement": float(scores.same.mean()),
    }


def quality_of_folder(
    model: Model,
    folder: Codebooks,
    specs: Sequence[str],
    *,
    ks: Sequence[int] | None = None,
    n_tokens: int = 4096,
    control_blocks: int = CONTROL_BLOCKS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    stage: Stage = silent,
) -> dict:
    """Evaluate a folder's books on the held-out split of each text apart; a JSON-ready result.

    The means of the control ``mean`` are taken over training blocks of the same text, as many as ``control_blocks``.
    :class:`InputError`: another model's books, a k they cannot have, too little text.

    Args:
        specs: texts, see :mod:`interp.text.sources`.
        ks: codes per vector; as fitted if not given.
    """
    context = folder.manifest["text"]["context"]
    assert folder.folder is not None
    books = {k: Codebooks.from_pretrained(folder.folder, model, k=k) for k in ks or [folder.manifest["fit"]["k"]]}
    texts, shared = [], dict[str, Any](seed=seed, stage=stage)
    for spec in specs:
        text = load_text(spec, model, n_tokens=n_tokens, context=context, split="heldout", **shared)
        # a joined spec needs a block of each of its sources
        other_tokens = context * max(control_blocks, spec.count("+") + 1)
        other = load_text(spec, model, n_tokens=other_tokens, context=context, **shared)
        quality = evaluate_codebooks(
            model, books, text, other, batch_size=batch_size, control_blocks=control_blocks, **shared
        )
        usage = {str(k): dict(usage) for k, usage in quality.usage.items()}
        described = {"spec": text.spec, "n_blocks": len(text.tokens), "context": context}
        described["fingerprint"] = text.fingerprint()
        texts.append({**described, "rows": quality.rows(seed), "usage": usage})
    return {
        "format": FORMAT,
        "model": folder.manifest["model"],
        "sites": folder.sites,
        "fit": folder.manifest["fit"],
        "fitted_on": folder.manifest["text"],
        "seed": seed,
        "texts": texts,
    }
