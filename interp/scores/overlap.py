"""Discrete-SAE code overlap: a head is in the circuit if it has codes that only positive prompts use.

O'Neill & Bui 2024 (arXiv 2405.12522), as its published code runs it:

1. What each head adds to the residual stream, averaged over positions, is one sample. One small sparse autoencoder is
   trained on the samples of ten prompts; then every head has one code per prompt.
2. score(head) = number of distinct codes that it has on some positive (clean) prompt and on no negative
   (corrupt) one. There a softmax over heads follows; it changes no order, so here the counts are kept.
3. score(head i, head j) = the same for pairs of codes that the two heads have on one and the same prompt.

When it misleads: it is a correlation with the corruption, not a cause; a single negative prompt deletes a
code; the count grows with the number of prompts, with the dictionary and with plain noise in a head's codes,
so a head whose codes are scattered scores high. Scores are small integers with many ties.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.means import HeadMeans, Positions, output_weights
from interp.activations.stream import BATCH_SIZE, HUNDREDTHS, Progress
from interp.bottlenecks.kinds.discrete_sae import DecoderNorm, DiscreteSAE, DiscreteSAEConfig
from interp.errors import InputError
from interp.models import Model, Site
from interp.prompts.pairs import PromptPairs
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Cost, EdgeScore, ScoredEdges, Scores

PUBLISHED_L1 = {"ioi": 0.02, "greater-than": 0.02, "docstring": 0.05}
"""λ of each task's recorded runs, probably tuned against the very circuits that the results are scored on."""

BEST_EDGES = 200  # edges kept in the result; :func:`edge_overlap` gives them all
PROMPTS_AT_ONCE = 128  # prompts encoded together: a layer of GPT-2 XL (25 heads of size 1600) is then 20 MB


@dataclass(frozen=True)
class OverlapConfig(MethodConfig):
    n_codes: int = 200  # size of the dictionary
    examples: int = 10  # prompts it is trained on, drawn from clean and corrupt ones together
    l1: float = 0.02  # λ; see `PUBLISHED_L1`
    # epochs, lr, decoder_norm: see `DiscreteSAEConfig`
    epochs: int = 500
    lr: float = 1e-3
    decoder_norm: DecoderNorm = "coordinate"
    dictionary: Literal["shared", "per-head"] = "shared"  # `shared` by all heads, as published, or one `per-head`
    seed: int = 0  # of the prompts drawn and of the initial weights
    # what a head's output is reduced to; only `mean` was published (`last` is in the code)
    positions: Positions = "mean"
    include_bos: bool = True  # whether `mean` includes the BOS position, as published
    normalise: bool = False  # divide each head's count by its number of distinct codes; off in all published runs
    edges: bool = True  # whether edges are scored too

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 1 if self.dictionary == "shared" else 2
        if self.examples < least:
            raise InputError(f"examples {self.examples}: a {self.dictionary} dictionary needs {least} or more")
        self.sae(d_in=1, groups=1)  # says what is wrong with the rest

    def sae(self, d_in: int, groups: int) -> DiscreteSAEConfig:
        names = ("n_codes", "l1", "epochs", "lr", "decoder_norm", "seed")
        return DiscreteSAEConfig(d_in=d_in, groups=groups, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class HeadCodes:
    """The code of every head on every prompt."""

    # side 0 is clean, 1 corrupt; one slot unless the means were taken at role positions
    ids: Int[np.ndarray, "side pair slot layer head"]
    n_codes: int
    dictionary: DiscreteSAE  # one for all heads, or one group per head in reading order
    # the prompts it was trained on; i < n is clean prompt i, i ≥ n is corrupt prompt i − n
    train_indices: tuple[int, ...]


def read_means(context: Context) -> HeadMeans:
    """Every head's outputs as the config asks for them; a tokenizer may have no BOS to leave out."""
    pairs, config = context.pairs, context.config
    with_bos = pairs.bos and getattr(context.model.tokenizer, "bos_token_id", None) is not None
    means = HeadMeans(pairs, config.positions, first=int(with_bos and not config.include_bos))
    context.run(means, share=FORWARD_SHARE)
    return means


FORWARD_SHARE = 0.5  # of the work, roughly; the dictionary is the rest


def _subsets(context: Context) -> Rank:
    """Each subset trains a dictionary of its own."""
    means, weights = read_means(context), output_weights(context.model)

    def rank(indices: list[int], config: OverlapConfig) -> tuple[np.ndarray, float]:
        codes = fit_head_codes(means.subset(indices), weights, config)
        return head_overlap(codes, normalise=config.normalise), 0.0

    return rank


def edges_among(
    _model: Model,
    _pairs: PromptPairs,
    scores: Scores,
    *,
    sites: Sequence[Site],
    batch_size: int = BATCH_SIZE,  # noqa: ARG001
    progress: Progress | None = None,
) -> ScoredEdges:
    """Edges from an earlier to a later layer among some heads, best first."""
    begin, codes = time.perf_counter(), scores.codes
    assert isinstance(codes, HeadCodes)
    layers, heads = codes.ids.shape[-2:]
    inside = np.zeros(layers * heads, dtype=bool)
    inside[[site.layer * heads + site.head for site in sites if site.kind == "attn"]] = True
    matrix = np.where(inside[:, None] & inside[None, :], head_edges(codes), 0)
    edges = top_edges(matrix, layers, heads, int(inside.sum()) ** 2)
    if progress is not None:
        progress(HUNDREDTHS)
    return ScoredEdges(edges, cost=Cost(seconds=time.perf_counter() - begin), counts=True)


@method(
    config=OverlapConfig,
    task_defaults=lambda task: {"l1": PUBLISHED_L1.get(task, OverlapConfig.l1)},
    subsets=_subsets,
    edges=edges_among,
    scores_mlps=False,
)
def overlap(context: Context) -> Scores:
    """Score heads (and edges between them) by codes unique to the clean prompts (module docstring)."""
    config = context.config
    codes = fit_head_codes(read_means(context), output_weights(context.model), config)
    heads = head_overlap(codes, normalise=config.normalise)
    n_layers, n_heads = heads.shape
    return Scores(
        heads,
        signed=False,
        edges=top_edges(head_edges(codes), n_layers, n_heads, BEST_EDGES) if config.edges else (),
        codes=codes,
        provenance={"train_indices": list(codes.train_indices)},
    )


def fit_head_codes(
    means: HeadMeans, w_o: Float[Tensor, "layer head d_head d_model"], config: OverlapConfig
) -> HeadCodes:
    """Train the dictionary on ``config.examples`` prompts and encode all of them, from fed ``means`` and the model's
    :func:`~interp.activations.means.output_weights`."""
    sides, n_pairs, slots, layers, heads, d_head = means.z_.shape
    if config.examples > sides * n_pairs:
        raise InputError(f"examples {config.examples}: there are only {sides * n_pairs} prompts")
    prompts = means.z_.reshape(sides * n_pairs, slots, layers, heads, d_head)
    shared = config.dictionary == "shared"
    sae = DiscreteSAE(config.sae(d_in=w_o.shape[-1], groups=1 if shared else layers * heads))
    chosen = np.random.default_rng(config.seed).permutation(len(prompts))[: config.examples]
    train = torch.einsum("nslhd,lhdm->nslhm", prompts[torch.from_numpy(chosen)], w_o)
    sae.fit(train if shared else train.flatten(2, 3))

    ids = np.empty((len(prompts), slots, layers, heads), dtype=np.int32)
    for layer in range(layers):
        dictionary = sae if shared else sae.select(slice(layer * heads, (layer + 1) * heads))
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            chunk = slice(start, start + PROMPTS_AT_ONCE)
            results = torch.einsum("nshd,hdm->nshm", prompts[chunk, :, layer], w_o[layer])
            ids[chunk, :, layer] = dictionary.encode(results).ids[..., 0].numpy()
    return HeadCodes(ids.reshape(sides, n_pairs, slots, layers, heads), config.n_codes, sae, tuple(chosen.tolist()))


def head_overlap(codes: HeadCodes, *, normalise: bool = False) -> Float[np.ndarray, "layer head"]:
    """Number of distinct codes of each head that occur on clean prompts only, summed over slots; ``normalise`` divides
    by the number of its distinct codes on either side."""
    used = np.zeros((*codes.ids.shape[:1], *codes.ids.shape[2:], codes.n_codes), dtype=bool)
    side, _, slot, layer, head = np.ix_(*map(np.arange, codes.ids.shape))
    used[side, slot, layer, head, codes.ids] = True
    clean, corrupt = used
    unique = (clean & ~corrupt).sum((0, -1)).astype(np.float64)
    return unique / (clean | corrupt).sum((0, -1)) if normalise else unique


def head_edges(codes: HeadCodes) -> Int[np.ndarray, "head other"]:
    """:func:`edge_overlap` of all heads in reading order, summed over slots."""
    clean, corrupt = codes.ids.reshape(*codes.ids.shape[:3], -1)
    slots = range(clean.shape[1])
    return reduce(np.add, (edge_overlap(clean[:, s], corrupt[:, s], codes.n_codes) for s in slots))


def edge_overlap(
    ids_clean: Int[np.ndarray, "pair head"], ids_corrupt: Int[np.ndarray, "other head"], n_codes: int
) -> Int[np.ndarray, "head head"]:
    """For every two heads, the number of distinct code pairs seen on clean prompts and on no corrupt one.

    Symmetric, with a zero diagonal. The published code fills one array of heads² × codes² counts per class in a triple
    loop (6.6 GB for GPT-2 small); sorting needs neither.
    """
    ids = np.concatenate([ids_corrupt, ids_clean]).T
    if ids.size and not 0 <= ids.min() <= ids.max() < n_codes:
        raise InputError(f"codes from {ids.min()} to {ids.max()}: they must be 0 to {n_codes - 1}")
    # the last bit says "clean", so that a pair's run of equal keys begins with a corrupt one if it has any
    small = 2 * n_codes**2 < np.iinfo(np.int32).max
    ids = np.ascontiguousarray(ids, dtype=np.int32 if small else np.int64)
    clean = np.arange(ids.shape[1]) >= len(ids_corrupt)
    counts = np.zeros((len(ids), len(ids)), dtype=np.int64)
    for head in range(len(ids) - 1):
        keys = (ids[head] * n_codes + ids[head + 1 :]) * 2 + clean
        keys.sort(axis=1)
        pair = keys >> 1
        begins = np.ones(keys.shape, dtype=bool)
        np.not_equal(pair[:, 1:], pair[:, :-1], out=begins[:, 1:])
        counts[head, head + 1 :] = (begins & (keys & 1 == 1)).sum(axis=1)
    return counts + counts.T


def top_edges(matrix: Int[np.ndarray, "flat_head flat_head"], layers: int, heads: int, n: int) -> tuple[EdgeScore, ...]:
    """The ``n`` best edges from an earlier layer to a later one; ties in reading order, zeros left out."""
    layer = np.arange(layers * heads) // heads
    forward = np.where(layer[:, None] < layer[None, :], matrix, 0).ravel()
    best = np.argsort(-forward, kind="stable")[:n]
    sites = [str(Site("attn", *divmod(flat, heads))) for flat in range(len(matrix))]
    edges = ((*divmod(k, len(matrix)), float(forward[k])) for k in best[forward[best] > 0].tolist())
    return tuple(EdgeScore(sites[sender], sites[receiver], None, score) for sender, receiver, score in edges)
