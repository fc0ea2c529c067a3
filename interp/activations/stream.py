"""One pass over prompt pairs, feeding every consumer that wants their activations.

Forward passes are nearly all of the cost of a discovery, so they are made once. :func:`batches` runs the corrupt and
the clean prompts in batches of equal length (no padding, no mask) and hands each batch to all consumers: attribution
scores, the means that codes are read from, whatever a new method needs. They reduce it and let it go.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.metric import preferred_answers, task_metric
from interp.errors import InputError, whole_number
from interp.models import HookFunction, Model, has_mlps, hooked, model_device
from interp.models.hooks import model_lock
from interp.models.limits import check_tokens
from interp.prompts.pairs import Metric, PromptPair, PromptPairs

BOTH_SIDES = 2.0  # forward-pass equivalents a pair: the clean and the corrupt prompt
FORWARD_AND_BACKWARD = 3.0  # of one prompt: a backward pass counts two
BASE_COST = 4.0  # a pair with gradients: a corrupt forward, a clean forward and its backward pass
BATCH_SIZE = 16  # pairs per forward: about 300 tokens keep two cores busy; a GPU is happier with more
HUNDREDTHS = 100  # steps in which a method tells its progress

Hooks = Mapping[str, HookFunction]
Progress = Callable[[int], None]  # told how many pairs have just been done


@dataclass(frozen=True)
class Activations:
    """What one side (clean or corrupt) of a batch did; per-layer tuples, because layers come one at a time."""

    tokens: Int[Tensor, "batch pos"]
    z: tuple[Float[Tensor, "batch pos head d_head"], ...]
    mlp: tuple[Float[Tensor, "batch pos d_model"], ...]  # empty for attention-only models
    resid_end: Float[Tensor, "batch d_model"]  # the final residual stream at END, before the final norm
    metric: Float[Tensor, " batch"]
    preferred: Int[Tensor, " batch"]  # the token that the model likes best among the answers and wrong answers
    pattern: tuple[Float[Tensor, "batch head query key"], ...] = ()
    """Attention patterns, on the clean side and only where a consumer asked for them."""


class ActivationTape:
    """Keeps what passes at some hook points: ``tape[name]`` in a forward with :attr:`hooks` in place.

    Args:
        names: hook points of the clean prompts, or of the only ones.
        watch: those whose gradient is kept, too.
        corrupt: hook points of the corrupt prompts.

    Attributes:
        corrupt: what passed there in the forward with :attr:`corrupt_hooks` in place.
        gradients: of the points in ``watch``, kept as a backward pass goes through them.
    """

    def __init__(self, names: Iterable[str], watch: Iterable[str] = (), corrupt: Iterable[str] = ()) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.corrupt: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        watched = dict.fromkeys(watch)
        self.hooks: dict[str, Callable[[Tensor], Tensor | None]] = {
            name: _keeper(name, self._kept, self.gradients if name in watched else None)
            for name in dict.fromkeys([*names, *watched])
        }
        self.corrupt_hooks = {name: _keeper(name, self.corrupt, None) for name in dict.fromkeys(corrupt)}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._kept:
            raise RuntimeError(f"nothing passed at {name}: unsupported model")
        return self._kept[name]


def _keeper(
    name: str, kept: dict[str, Tensor], gradients: dict[str, Tensor] | None
) -> Callable[[Tensor], Tensor | None]:
    # the hook on the tensor must not hold the tape: tape and tensor would keep each other alive
    def keep(activation: Tensor) -> Tensor | None:
        # off the graph a later in-place edit could change the tensor
        on_graph = activation.requires_grad
        kept[name] = activation if on_graph else activation.clone()
        if gradients is not None and on_graph:
            activation.register_hook(lambda gradient: gradients.__setitem__(name, gradient.detach()))
        return activation if on_graph else None  # handing it back would cost a copy

    return keep


@dataclass(frozen=True)
class PairBatch:
    """Clean and corrupt activations of some pairs of one length, and the metric's gradients on the clean side."""

    indices: tuple[int, ...]  # where the rows stand in the list of pairs
    pairs: tuple[PromptPair, ...]
    clean: Activations
    corrupt: Activations
    z_gradient: tuple[Float[Tensor, "batch pos head d_head"], ...] = ()
    mlp_gradient: tuple[Float[Tensor, "batch pos d_model"], ...] = ()
    tape: ActivationTape = field(default_factory=lambda: ActivationTape(()))
    """What stood at the hook points that somebody asked for."""


class Consumer:
    """Reads the batches of a pass and reduces them; the attributes say what it needs of each."""

    needs_gradients: bool = False
    needs_patterns: bool = False  # attention patterns of the clean prompts
    needs_hooks: Collection[str] = ()  # hook points whose activations on the clean prompts ``batch.tape`` is to hold
    needs_corrupt_hooks: Collection[str] = ()

    def update(self, batch: PairBatch) -> None:
        raise NotImplementedError


class MetricConsumer(Consumer):
    """Keeps the task metric, [side, pair]: side 0 is clean, 1 corrupt."""

    def __init__(self, n_pairs: int) -> None:
        self.metric_ = np.zeros((2, n_pairs))

    def update(self, batch: PairBatch) -> None:
        for side, activations in enumerate((batch.clean, batch.corrupt)):
            self.metric_[side, list(batch.indices)] = activations.metric.cpu().numpy()


def check_context(model: Model, pairs: Sequence[PromptPair]) -> int:
    """Length of the longest prompt; raises :class:`InputError` if it is more than the model reads, or a token of a
    prompt or an answer is none of the model's."""
    longest = max(len(pair.clean_tokens) for pair in pairs)
    if longest > model.cfg.n_ctx:
        raise InputError(f"prompts of {longest} tokens: the model reads at most {model.cfg.n_ctx}")
    for pair in pairs:
        ids = itertools.chain(pair.clean_tokens, pair.corrupt_tokens, pair.answers, pair.wrong_answers)
        check_tokens(model, ids, f"the pair of {pair.clean[:40]!r}")
    return longest


def batches(
    model: Model,
    pairs: PromptPairs,
    consumers: Sequence[Consumer] = (),
    *,
    batch_size: int = BATCH_SIZE,
    gradients: bool = False,
    hooks: Collection[str] = (),
    corrupt_hooks: Collection[str] = (),
    watch: Collection[str] = (),
    keep_graph: bool = False,
) -> Iterator[PairBatch]:
    """Run all pairs once; every batch goes to each consumer in turn and then to the caller.

    Args:
        gradients: of the metric by every head's z and MLP's output, where no consumer asks for them.
        hooks, corrupt_hooks: what ``batch.tape`` is to hold of the clean and of the corrupt prompts.
        watch: hook points whose gradient the tape keeps, too.
        keep_graph: leaves the clean side's graph standing, for what lies on the tape.
    """
    check_context(model, pairs)
    hooks = [*hooks, *(name for consumer in consumers for name in consumer.needs_hooks)]
    corrupt_hooks = [*corrupt_hooks, *(n for consumer in consumers for n in consumer.needs_corrupt_hooks)]
    for indices in equal_length_batches(pairs, batch_size):
        batch = run_batch(
            model,
            pairs,
            indices,
            gradients=gradients or any(consumer.needs_gradients for consumer in consumers),
            patterns=any(consumer.needs_patterns for consumer in consumers),
            keep_graph=keep_graph,
            tape=ActivationTape(hooks, watch, corrupt_hooks),
        )
        for consumer in consumers:
            consumer.update(batch)
        yield batch


def feed(
    model: Model,
    pairs: PromptPairs,
    consumers: Sequence[Consumer],
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> float:
    """Run all pairs once and update every consumer; return the cost in forward-pass equivalents."""
    for batch in batches(model, pairs, consumers, batch_size=batch_size):
        if progress is not None:
            progress(len(batch.indices))
    gradients = any(consumer.needs_gradients for consumer in consumers)
    return len(pairs) * (BASE_COST if gradients else BOTH_SIDES)


def equal_length_batches(pairs: Sequence[PromptPair], batch_size: int) -> Iterator[tuple[int, ...]]:
    """Indices of pairs of one token length, at most ``batch_size`` at a time; those that begin to differ at the same
    position stand together, so that patches can share their prefix."""
    whole_number("batch size", batch_size, 1)
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i].clean_tokens), pairs[i].first_difference))
    for _, group in itertools.groupby(order, key=lambda i: len(pairs[i].clean_tokens)):
        items = tuple(group)
        for begin in range(0, len(items), batch_size):
            yield items[begin : begin + batch_size]


def run_batch(
    model: Model,
    pairs: PromptPairs,
    indices: tuple[int, ...],
    *,
    gradients: bool = False,
    patterns: bool = False,
    keep_graph: bool = False,
    tape: ActivationTape | None = None,
) -> PairBatch:
    """Both sides of the pairs at ``indices`` (of equal length), with the metric's gradients if asked; ``keep_graph``
    leaves the clean side's graph standing after its backward pass, for what lies on ``tape``."""
    tape = tape or ActivationTape(())
    rows = tuple(pairs[i] for i in indices)
    check_context(model, rows)
    device = model_device(model)
    clean = torch.tensor([row.clean_tokens for row in rows], device=device)
    corrupt = torch.tensor([row.corrupt_tokens for row in rows], device=device)
    same = torch.equal(clean, corrupt) and not tape.corrupt_hooks  # one prompt is no pair: it runs once
    if not same:
        with torch.no_grad(), hooked(model, tape.corrupt_hooks):
            corrupt_side = _run(model, corrupt, rows, pairs.metric)
    with torch.set_grad_enabled(gradients), hooked(model, tape.hooks):
        clean_side = _run(model, clean, rows, pairs.metric, patterns=patterns)
        if not gradients:
            return PairBatch(indices, rows, clean_side, clean_side if same else corrupt_side, tape=tape)
        # rows are independent, so the gradient of the sum holds each row's own gradient
        grads = torch.autograd.grad(clean_side.metric.sum(), [*clean_side.z, *clean_side.mlp], retain_graph=keep_graph)
    n = len(clean_side.z)
    detached = replace(
        clean_side,
        z=tuple(z.detach() for z in clean_side.z),
        mlp=tuple(m.detach() for m in clean_side.mlp),
        metric=clean_side.metric.detach(),
    )
    other = detached if same else corrupt_side
    return PairBatch(indices, rows, detached, other, tuple(grads[:n]), tuple(grads[n:]), tape)


def end_logits(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    hooks: Hooks | None = None,
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch d_vocab"]:
    """Logits after the last token only: a fifth of a small model's work is unembedding positions nobody reads. In rows
    that are padded behind it, ``last`` says where it stands."""

    def at_end(x: Tensor) -> Tensor:
        # an index copies; rows of a slice lie apart, and torch would multiply them one by one, far slower in bfloat16
        return x[torch.arange(len(x), device=x.device), -1 if last is None else last][:, None]

    with hooked(model, {**(hooks or {}), "unembed.hook_in": at_end}):
        return model(tokens)[:, -1]


def answer_logits(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    pairs: Sequence[PromptPair],
    metric: Metric,
    hooks: Hooks | None = None,
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch d_vocab"]:
    """:func:`end_logits` where the metric reads them, −∞ elsewhere.

    Most of Gemma's work in a late layer's patch would be unembedding 262 144 tokens. The model runs as it does, with
    the answers' rows of its unembedding in place of all, so soft-caps and scales stay its own.
    """
    unembedding = model.unembed.original_component
    if metric == "prob_diff" or not isinstance(unembedding, nn.Linear):
        return end_logits(model, tokens, hooks, last)
    ids = sorted({token for pair in pairs for token in (*pair.answers, *pair.wrong_answers)})
    wanted = torch.tensor(ids, device=tokens.device)
    weight, bias = unembedding.weight[wanted], unembedding.bias
    few = None if bias is None else bias[wanted]
    with model_lock(model):
        try:
            unembedding.__dict__["forward"] = partial(nn.functional.linear, weight=weight, bias=few)
            logits = end_logits(model, tokens, hooks, last)
        finally:
            del unembedding.__dict__["forward"]
    return logits.new_full((len(logits), model.cfg.d_vocab), float("-inf")).index_copy_(1, wanted, logits)


def _run(
    model: Model, tokens: Tensor, rows: tuple[PromptPair, ...], metric: Metric, *, patterns: bool = False
) -> Activations:
    """One forward; with gradients enabled, a graph from the embedding to the metric through all that is kept."""
    layers, resid_end, pattern = range(model.cfg.n_layers), list[Tensor](), list[Tensor]()
    z_names = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    mlp_names = [f"blocks.{layer}.hook_mlp_out" for layer in layers] * has_mlps(model)
    tape = ActivationTape([*z_names, *mlp_names])
    hooks = dict(tape.hooks)
    hooks[f"blocks.{layers[-1]}.hook_resid_post"] = lambda x: resid_end.append(x[:, -1].detach().clone())
    if patterns:
        for layer in layers:
            hooks[f"blocks.{layer}.attn.hook_pattern"] = lambda x: pattern.append(x.detach().clone())
    if torch.is_grad_enabled():
        # every parameter is frozen: the graph begins at the first block's input
        hooks["blocks.0.hook_resid_pre"] = lambda x: x.detach().requires_grad_(True)
    logits = answer_logits(model, tokens, rows, metric, hooks)
    values, preferred = task_metric(logits, rows, metric), preferred_answers(logits, rows)
    z, mlp = (tuple(tape[name] for name in names) for names in (z_names, mlp_names))
    return Activations(tokens, z, mlp, resid_end[0], values, preferred, tuple(pattern))
