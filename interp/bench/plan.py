"""What a bench is to run: its cells, and which of them are too dear.

Results on disk: one file a cell, written whole or not at all, and read only if it is what was asked for.

::

    OUT/bench.json, bench.parquet, bench.html       the table
    OUT/TASK--MODEL/reference-n200.safetensors      exact effects, where none is shipped
    OUT/TASK--MODEL/METHOD/pool.safetensors         scores of every pair of the pool that a cell needs
    OUT/TASK--MODEL/METHOD/n10-seed0.json           a cell
    OUT/log.jsonl                                   jobs: where and when each ran, and how long

Deleting a method's folder makes the next run do it again.
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from interp import DEFAULT_MODEL
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.planted.tasks import planted_task_names
from interp.scores.registry import METHODS, REFERENCE_METHOD, load_method
from interp.tasks import load_task, task_names

FORMAT = 1
Say = Callable[[str], None]


def write_record(path: Path, settings: dict, result: dict) -> None:
    """Keep ``result`` with the settings it depends on, and a checksum of both."""
    digest = _digest(settings, result)
    write_json(path, {"format": FORMAT, "sha256": digest, "settings": settings, "result": result})


def read_record(path: Path, settings: dict, say: Say) -> dict | None:
    """The result kept at ``path``, or ``None`` with a line that says why it has to be made again."""
    if not path.is_file():
        return None
    try:
        kept, result = whole_record(path)
    except InputError:
        say(f"{path} is damaged: done again")
        return None
    wanted = json.loads(json.dumps(settings))  # tuples are lists in a file
    if kept != wanted:
        names = sorted(key for key in {*kept, *wanted} if kept.get(key) != wanted.get(key))
        say(f"{path} was made with other settings ({', '.join(names)}): done again")
        return None
    return result


def whole_record(path: Path) -> tuple[dict, dict]:
    """The settings and the result kept at ``path``, whatever they are. :class:`InputError`: not there, of another
    format, or not as it was written."""
    try:
        kept = read_json(path)
        whole = kept["format"] == FORMAT and kept["sha256"] == _digest(kept["settings"], kept["result"])
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged: delete it, and interp bench makes it again")
    return kept["settings"], kept["result"]


def _digest(settings: dict, result: dict) -> str:
    text = json.dumps([settings, result], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


BASELINE = "attribution"
YARDSTICK = "yardstick"
"""The row of activation patching of a few of the reference's own pairs, judged by its other pairs."""
POOL, POOL_SEED = 300, 0
REFERENCE_PAIRS, REFERENCE_SEED = 200, 1000
HELD_OUT = 10
FAITHFUL_SEEDS = 5
"""Seeds whose circuits from the fewest pairs are run alone (CPR, CMD, f): each costs some twenty forwards of every
held-out pair."""
SMALL = 64
"""Heads of a model on which every method gets all pairs and seeds; so do those that are named. On larger ones, when all
are run, a method gets no more than its ``most_pairs`` and ``most_seeds``."""


@dataclass(frozen=True)
class BenchTarget:
    """One task on one model."""

    task: str
    model: str

    @classmethod
    def of(cls, task: str, model: str) -> "BenchTarget":
        """A planted task runs on its own planted model."""
        return cls(task, task if task in planted_task_names() else model)

    @property
    def planted(self) -> bool:
        return self.task in planted_task_names()

    @property
    def group(self) -> str:
        """What is averaged together: planted models apart, their circuits are known and their prompts alike."""
        return "planted models" if self.planted else self.model

    @property
    def name(self) -> str:
        return self.task if self.planted else f"{self.task} on {self.model}"

    @property
    def folder(self) -> str:
        return "--".join(part.replace("/", "-").replace(":", "-") for part in (self.task, self.model))


@dataclass(frozen=True)
class BenchPlan:
    """A bench. :class:`InputError`: an unknown task or method, or a number that cannot be."""

    # shipped names, prompt files or classes; planted tasks run on their own planted models
    tasks: tuple[str, ...] = field(default_factory=task_names)
    models: tuple[str, ...] = (DEFAULT_MODEL,)  # specs that the other tasks run on
    # registered names, or one's own, as `interp discover` takes them; all that are registered if empty, but the one
    # that references are measured by, whose row is the baseline
    methods: tuple[str, ...] = ()
    pairs: tuple[int, ...] = (10, 25, 100)
    seeds: int = 10  # subsets of the pool that are drawn, seeds 0, 1, …
    # the method among them that all others are compared with; attribution, or else the first
    against: str | None = None
    # pool, held_out: pairs in the pool, and pairs that circuits are run on
    pool: int = POOL
    held_out: int = HELD_OUT
    reference: int = REFERENCE_PAIRS  # pairs that exact effects are measured on where none are shipped

    def __post_init__(self) -> None:
        if not self.methods:
            every = tuple(name for name in METHODS if name != REFERENCE_METHOD)
            object.__setattr__(self, "methods", every)
        for name in self.methods:
            load_method(name)
        for name in ("tasks", "models", "methods", "pairs"):
            values = getattr(self, name)
            if not values:
                raise InputError(f"no {name}: at least one is needed")
            object.__setattr__(self, name, tuple(dict.fromkeys(values)))
        if self.against is None:
            object.__setattr__(self, "against", BASELINE if BASELINE in self.methods else self.methods[0])
        elif self.against not in self.methods:
            load_method(self.against)
            raise InputError(f"against {self.against}: it is not among the methods {', '.join(self.methods)}")
        for name in self.tasks:
            load_task(name)
        if self.models != (DEFAULT_MODEL,) and set(self.tasks) <= set(planted_task_names()):
            raise InputError(
                f"models {', '.join(self.models)}: planted tasks run on planted models of their own; "
                "name a task that runs on these too"
            )
        for n in self.pairs:
            if not 1 <= n <= self.pool:
                raise InputError(f"{n} pairs: seeds draw from a pool of {self.pool}, so it is from 1 to {self.pool}")
        if self.seeds < 1:
            raise InputError(f"{self.seeds} seeds: at least 1 is needed")

    def runs_alone(self, n: int, seed: int) -> bool:
        return n == min(self.pairs) and seed < FAITHFUL_SEEDS

    def targets(self) -> tuple[BenchTarget, ...]:
        return tuple(dict.fromkeys(BenchTarget.of(*pair) for pair in itertools.product(self.tasks, self.models)))

    def groups(self) -> dict[str, list[BenchTarget]]:
        groups: dict[str, list[BenchTarget]] = {}
        for target in self.targets():
            groups.setdefault(target.group, []).append(target)
        return groups

    def cells(self, method: str, n_heads: int) -> tuple[tuple[int, int], ...]:
        """(pairs, seed) of every cell of a method on a model with so many heads in all; fewest pairs first."""
        most_pairs, most_seeds = self.pool, self.seeds
        runs_all = set(METHODS) - {REFERENCE_METHOD} <= set(self.methods)
        if method != YARDSTICK and n_heads > SMALL and runs_all:
            most_pairs = load_method(method).most_pairs or most_pairs
            most_seeds = min(most_seeds, load_method(method).most_seeds or most_seeds)
        sizes = [n for n in sorted(self.pairs) if n <= most_pairs]
        return tuple(itertools.product(sizes, range(most_seeds)))


def drawn(seed: int, n: int, size: int) -> list[int]:
    """The pairs of a cell among ``size``: a seed's smaller subsets are the beginning of its larger ones."""
    return np.random.default_rng(seed).permutation(size)[:n].tolist()
