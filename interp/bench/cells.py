"""Running a method for its cells: once on the pool where every pair has a score of its own, else cell by cell.

A method's score of some pairs is the mean of their scores only where the method is such a mean. That is looked at,
not assumed: the first cell of at least two pairs is run by itself, and half of it again, and the pool is used if the
scores of its pairs average to its scores and do not depend on the other pairs, nothing in the method is drawn at
random, and no edges are compared (they come without scores per pair). A method that is no such mean but ranks subsets
of a pool from one set of base runs (``Method.subsets``) makes those once; forward-pass equivalents count patches that
an earlier cell made.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from interp.activations.stream import HUNDREDTHS, Progress
from interp.bench.plan import Say, drawn, read_record, write_record
from interp.files import atomic_path, parse_json
from interp.models import Model, describe_model
from interp.progress import counted
from interp.prompts.pairs import PromptPairs
from interp.prompts.user_code import USER_CODE
from interp.scores.method import Rank
from interp.scores.registry import load_method, method_config
from interp.scores.result import EdgeScore, Scores

POOL_FILE = "pool.safetensors"
CHUNK = 100  # pairs of the pool that are run, and saved, at a time


Tell = Callable[[float], None]  # told which share of a piece of work is done by now


def part(tell: Tell, begin: float, width: float) -> Tell:
    """Tells the shares of a part of the work as shares of all."""
    return lambda share: tell(begin + share * width)


def _untold(_share: float) -> None: ...


@dataclass(frozen=True)
class CellResult:
    """What a cell's scores were and cost."""

    heads: Float[np.ndarray, "layer head"]
    forwards: float
    edges: tuple[EdgeScore, ...] = ()
    # spent on edges beyond the scores of heads, by methods that score edges only when asked
    edge_forwards: float = 0.0


class Runner:
    """One method on one target: the pairs, the folder, and what is known of the method so far."""

    def __init__(
        self,
        method: str,
        model: Model,
        pool: PromptPairs,
        folder: Path,
        *,
        weights: str,
        edges_compared: bool,
        batch_size: int,
        say: Say,
    ) -> None:
        self.method, self.model, self.pool, self.folder = load_method(method), model, pool, folder
        self.weights, self.edges_compared = weights, edges_compared
        self.batch_size, self.say = batch_size, say
        self.per_pair: Float[np.ndarray, "pair layer head"] | None = None
        """Scores of the pool's pairs, NaN where none was asked for; ``None`` for methods run cell by cell."""
        self._cost = (0.0, 0)
        self._first: tuple[tuple[int, int], Scores] | None = None
        self._subsets: tuple[Rank, float] | None = None
        self._row: dict[int, int] = {}
        self._cells: Sequence[tuple[int, int]] = ()

    def config(self, seed: int) -> Any:
        """The method's defaults for the task; the cell's seed, where the method draws anything."""
        return method_config(self.method, self.pool.task, {}, batch_size=self.batch_size, seed=seed)

    def settings(self) -> dict:
        """What the method's scores depend on, beside the pairs."""
        kept = {key: value for key, value in asdict(self.config(0)).items() if key != "seed"}
        if not self.method.by_batch:
            kept.pop("batch_size", None)
        code = self.method.score.__module__
        if code.startswith(USER_CODE):  # a file of the user's, by what it holds
            kept["code"] = code
        return kept if self.method.version == 1 else kept | {"version": self.method.version}

    def run(self, indices: Sequence[int], seed: int, tell: Tell) -> Scores:
        """The method on some pairs of the pool, which may be drawn more than once."""
        return self.method(self.model, self.pool.subset(indices), self.config(seed), progress=_progress(tell))

    def heads(self, indices: list[int], seed: int) -> Float[np.ndarray, "layer head"]:
        """Scores from some pairs of the pool, drawn with replacement, of a method that is run cell by cell."""
        return (self._ranked if self._ranks_subsets else self.run)(indices, seed, _untold).heads

    def prepare(self, cells: Sequence[tuple[int, int]], tell: Tell) -> None:
        """Find out how the method is run and, if on the pool, score all pairs that these cells need."""
        if self._ranks_subsets:
            self._cells = cells
            return
        record = self.folder / "method.json"
        settings = {
            "config": self.settings(),
            "pool": self.pool.digest(),
            "weights": self.weights,
            "dtype": describe_model(self.model)["dtype"],
            "edges_compared": self.edges_compared,
        }
        looked_at = settings | {"probe": "of two pairs at least"}
        known = read_record(record, looked_at, self.say)
        if known is None:
            why = self._why_cell_by_cell(cells)
            known = {"on_pool": not why, "why": why}
            write_record(record, looked_at, known)
        if known["on_pool"]:
            self._fill(self._drawn_by(cells), settings, tell)

    def _drawn_by(self, cells: Sequence[tuple[int, int]]) -> list[int]:
        return sorted({i for n, seed in cells for i in drawn(seed, n, len(self.pool))})

    def outcome(self, n: int, seed: int, tell: Tell) -> CellResult:
        indices = drawn(seed, n, len(self.pool))
        if self._ranks_subsets:
            return self._ranked(indices, seed, tell)
        if self.per_pair is not None:
            forwards, count = self._cost
            return CellResult(self.per_pair[indices].mean(0), forwards * n / count)
        cell, scores = self._first or (None, None)
        if scores is None or cell != (n, seed):
            scores = self.run(indices, seed, tell)
        if not self.edges_compared or self.method.edges_config is None or self.method.edges is None:
            return CellResult(scores.heads, scores.cost.forwards, scores.edges)
        pairs = self.pool.subset(indices)  # the method scores edges only when asked
        edges = self.method.edges(self.model, pairs, scores, batch_size=self.batch_size)
        return CellResult(scores.heads, scores.cost.forwards, edges.edges, edges.cost.forwards)

    def alone(
        self, n: int, seed: int, outcome: CellResult, tell: Tell
    ) -> tuple[Float[np.ndarray, "layer head"], float]:
        """What heads join circuits that run alone by, in one cell, and the forwards that this took of its own."""
        if self.method.nested is None or self.method.nested_config is None:
            return outcome.heads, 0.0
        pairs = self.pool.subset(drawn(seed, n, len(self.pool)))
        config = self.method.nested_config(batch_size=self.batch_size)
        nested = self.method.nested(self.model, pairs, config, progress=_progress(tell))
        return nested.heads, nested.cost.forwards

    @property
    def cell_by_cell(self) -> bool:
        """Whether cells share nothing, as is known once it is prepared."""
        return self.per_pair is None and not self._ranks_subsets

    @staticmethod
    def looked_at(cells: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """The cell that shows how a method is run: one pair by itself would say nothing of what the others do."""
        return next((cell for cell in cells if cell[0] > 1), None)

    @property
    def _ranks_subsets(self) -> bool:
        return self.method.subsets is not None and not self.edges_compared

    def _ranked(self, indices: list[int], seed: int, tell: Tell) -> CellResult:
        """A cell of a method that ranks subsets of a pool; its base runs are made when the first is asked for."""
        if self._subsets is None:
            wanted = self._drawn_by(self._cells)
            self._row = {index: row for row, index in enumerate(wanted)}
            pool = self.pool.subset(wanted)
            self._subsets = self.method.pool(self.model, pool, self.config(0), progress=_progress(tell))
        rank, forwards = self._subsets
        heads, more = rank([self._row[i] for i in indices], self.config(seed))
        return CellResult(heads, forwards * len(indices) + more)

    def _why_cell_by_cell(self, cells: Sequence[tuple[int, int]]) -> str:
        """Empty where the pool serves."""
        if hasattr(self.config(0), "seed"):
            return "it draws at random, anew for every seed"
        n, seed = self.looked_at(cells) or (2, 0)
        indices = drawn(seed, n, len(self.pool))
        scores = self.run(indices, seed, _untold)
        self._first = ((n, seed), scores)
        if scores.heads_per_pair is None:
            return "it scores the pairs as a whole"
        if not _alike(scores.heads_per_pair.mean(0), scores.heads):
            return "its scores are not the mean of its scores per pair"
        half = self.run(indices[: (n + 1) // 2], seed, _untold).heads_per_pair
        if half is None or not _alike(half, scores.heads_per_pair[: (n + 1) // 2]):
            return "its score of a pair depends on the other pairs"
        return "its edges have no scores per pair" if self.edges_compared and scores.edges else ""

    def _fill(self, wanted: list[int], settings: dict, tell: Tell) -> None:
        path = self.folder / POOL_FILE
        shape = (len(self.pool), self.model.cfg.n_layers, self.model.cfg.n_heads)
        heads, cost = self._read_pool(path, shape, settings)
        missing = [i for i in wanted if np.isnan(heads[i]).any()]
        for begin in range(0, len(missing), CHUNK):
            chunk = missing[begin : begin + CHUNK]
            scores = self.run(chunk, 0, part(tell, begin / len(missing), len(chunk) / len(missing)))
            heads[chunk] = scores.heads_per_pair
            cost = (cost[0] + scores.cost.forwards, cost[1] + len(chunk))
            # one word: several would stand in another order in each process
            header = {"pool": json.dumps({"settings": settings, "cost": cost})}
            with atomic_path(path) as temporary:
                save_file({"heads": heads}, temporary, metadata=header)
        self.per_pair, self._cost = heads, cost

    def _read_pool(
        self, path: Path, shape: tuple[int, int, int], settings: dict
    ) -> tuple[np.ndarray, tuple[float, int]]:
        nothing = np.full(shape, np.nan), (0.0, 0)
        if not path.is_file():
            return nothing
        try:
            with safe_open(path, framework="numpy") as file:
                header, heads = parse_json((file.metadata() or {})["pool"]), file.get_tensor("heads")
            forwards, count = header["cost"]
            cost = (float(forwards), int(count))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            self.say(f"{path} is damaged: done again")
            return nothing
        if header.get("settings") != json.loads(json.dumps(settings)) or heads.shape != shape:
            self.say(f"{path} was made with other settings: done again")
            return nothing
        return heads.copy(), cost


def _progress(tell: Tell) -> Progress:
    """A method's, which counts hundredths, as the share of the work that is done."""
    return counted(tell, HUNDREDTHS)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Up to what float32 and another batch change."""
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()))
