"""The contract of scoring methods.

A method is a function of one :class:`Context` that returns :class:`~interp.scores.result.Scores`::

    @method(config=AttributionConfig)
    def attribution(context: Context) -> Scores:
        scorer = AttributionConsumer(len(context.pairs))
        context.run(scorer)
        return Scores.from_pairs(scorer.heads_, scorer.mlps_)

What runs it (:meth:`Method.__call__`) adds the clock, the cost, the metric, provenance and progress, and feeds whoever
else reads the same pass. What else a method can do is an argument of :func:`method`, so that nobody asks for its name.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from interp.activations import stream
from interp.errors import check_fields
from interp.models import Model
from interp.progress import counted, whole_steps
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Cost, ScoredEdges, Scores

Shared = TypeVar("Shared", bound=stream.Consumer)


@dataclass(frozen=True)
class MethodConfig:
    batch_size: int = stream.BATCH_SIZE  # pairs per forward

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass
class Context:
    """What a method works on, and what it spends.

    Attributes:
        consumers: of the first pass, beside the method's own.
        progress: told hundredths of the work.
        forwards: spent so far, in forward-pass equivalents of one prompt.
    """

    model: Model
    pairs: PromptPairs
    config: Any = MethodConfig()
    consumers: Sequence[stream.Consumer] = ()
    progress: stream.Progress | None = None
    forwards: float = 0.0
    metric: Float[np.ndarray, "side pair"] | None = field(default=None, init=False)
    """Of the clean prompts, then of the corrupt ones; ``None`` before the first pass."""

    def __post_init__(self) -> None:
        self.report_progress: Callable[[float], None] = whole_steps(self.progress, stream.HUNDREDTHS)
        """Told which share of the work is done by now."""

    @property
    def gap(self) -> float:
        """Mean metric of the clean prompts less that of the corrupt ones."""
        assert self.metric is not None
        return float((self.metric[0] - self.metric[1]).mean())

    def batches(
        self, *consumers: stream.Consumer, gradients: bool = False, share: float = 1.0, **kept: Any
    ) -> Iterator[stream.PairBatch]:
        """Run all pairs once, batch by batch, for these consumers and those that came with the context.

        Args:
            gradients: of the metric by every head's z and MLP's output, where no consumer asks for them.
            share: of the method's work that is done with the last batch.
            kept: ``hooks``, ``corrupt_hooks``, ``watch`` and ``keep_graph`` of
                :func:`interp.activations.stream.batches`.
        """
        metric, done = stream.MetricConsumer(len(self.pairs)), 0
        readers = (metric, *consumers, *self.consumers)
        self.consumers, self.metric = (), metric.metric_
        gradients = gradients or any(reader.needs_gradients for reader in readers)
        size = self.config.batch_size
        for batch in stream.batches(self.model, self.pairs, readers, batch_size=size, gradients=gradients, **kept):
            yield batch
            done += len(batch.indices)
            self.forwards += (stream.BASE_COST if gradients else stream.BOTH_SIDES) * len(batch.indices)
            if share:
                self.report_progress(share * done / len(self.pairs))

    def shared(self, kind: type[Shared]) -> Shared | None:
        """The consumer of this kind that came with the context, if one did: a method may read it, too."""
        return next((consumer for consumer in self.consumers if isinstance(consumer, kind)), None)

    def run(self, *consumers: stream.Consumer, share: float = 1.0) -> None:
        """Run all pairs once for these consumers."""
        for _ in self.batches(*consumers, share=share):
            pass

    def steps(self, total: int) -> stream.Progress:
        """A progress that is told steps, of so many in all."""
        return counted(self.report_progress, max(1, total))


Rank = Callable[[list[int], Any], tuple[Float[np.ndarray, "layer head"], float]]
"""Scores of heads from the pairs at some indices, which may be drawn more than once, and the forwards that this took
beyond the pool's; given a config."""


@dataclass(frozen=True)
class Method:
    """A scoring method, called as ``method(model, pairs, config)``."""

    name: str
    score: Callable[[Context], Scores]  # the function itself
    config: type = MethodConfig  # the class of its settings; all have `batch_size`
    # settings whose default the method's publication gives per task
    task_defaults: Callable[[str], dict] = lambda _task: {}
    # for methods that are no mean over pairs, but rank any subset of a pool from one run of it
    subsets: Callable[[Context], Rank] | None = None
    # `edges(model, pairs, scores, sites=, batch_size=, progress=)` of a method that scores edges in a way of its own,
    # after the heads; else they are attributed
    edges: Callable[..., ScoredEdges] | None = None
    # settings of edges that are scored only when asked; `None` where the scores hold the edges
    edges_config: type | None = None
    # `nested(model, pairs, batch_size=, progress=)` of a method that, when asked, orders heads anew for circuits that
    # do the task by themselves. Others order them by their scores.
    nested: Callable[..., Any] | None = None
    nested_config: type | None = None  # its settings
    by_batch: bool = False  # whether another batch size gives other scores, and not only other last digits
    scores_mlps: bool = True  # whether MLPs are scored, too, where a model has some (or the config's `mlps` says so)
    # most_pairs, most_seeds: what a dear method is given on large models in a bench of all methods
    most_pairs: int | None = None
    most_seeds: int | None = None
    version: int = 1  # raised whenever the same config gives other scores: cells of an older bench are then made again

    def __call__(
        self,
        model: Model,
        pairs: PromptPairs,
        config: Any = None,
        *,
        consumers: Sequence[stream.Consumer] = (),
        progress: stream.Progress | None = None,
    ) -> Scores:
        """Score the heads of ``model`` from ``pairs``, with the default config if none is given. The same pass feeds
        ``consumers``; ``progress`` is told hundredths of the work."""
        begin = time.perf_counter()
        context = Context(model, pairs, self.config() if config is None else config, consumers, progress)
        scores = self.score(context)
        if context.consumers:
            context.run()
        context.report_progress(1.0)
        clean, corrupt = (None, None) if context.metric is None else context.metric
        return replace(
            scores,
            method=self.name,
            config=asdict(context.config),
            cost=Cost(context.forwards, time.perf_counter() - begin),
            provenance=pairs.provenance() | scores.provenance,
            metric_clean=clean,
            metric_corrupt=corrupt,
        )

    def pool(
        self, model: Model, pairs: PromptPairs, config: Any = None, *, progress: stream.Progress | None = None
    ) -> tuple[Rank, float]:
        """Run the pairs once, for methods with ``subsets``: what ranks any of them, and the forwards of each pair."""
        context = Context(model, pairs, self.config() if config is None else config, (), progress)
        assert self.subsets is not None
        rank = self.subsets(context)
        context.report_progress(1.0)
        return rank, context.forwards / len(pairs)


def method(name: str | None = None, **capabilities: Any) -> Callable[[Callable[[Context], Scores]], Method]:
    """Make a function of a :class:`Context` a :class:`Method`: by default with its own name, with dashes;
    ``capabilities`` are fields of :class:`Method`."""

    def make(score: Callable[[Context], Scores]) -> Method:
        return Method(name or score.__name__.replace("_", "-"), score, **capabilities)

    return make
