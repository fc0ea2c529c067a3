"""A run: the folder that holds one discovery, and all that is needed to repeat it.

============================ =================================================================================
``run.json``                 the result as ``interp discover --json`` prints it, and the provenance
``details.json``             what the report shows of examples and members: tokens, patterns, writings, codes
``scores.safetensors``       scores and exact effects before the mean over pairs
``heads.csv``                one row a head
``prompts.json``/``.jsonl``  the prompts, where they came from a file
``reference.safetensors``    the reference of one's own, where one was given
``report.html``              the report
============================ =================================================================================

The folder is filled under a temporary name and renamed: a reader never meets half a run, and an interrupted or
failed discovery leaves an earlier run at the same place as it was.
"""

import contextlib
import csv
import errno
import io
import itertools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.circuits.circuit import Circuit, Component
from interp.circuits.exact_effects import ExactEffects
from interp.circuits.references import Reference, named_reference
from interp.errors import InputError, one_line
from interp.files import UMASK, atomic_path, check_folder, read_json, request_of, write_json, write_text
from interp.scores.result import EdgeScore
from interp.tasks import PromptFile, PromptPairs, load_task, task_names

FORMAT = 1
RESULT, DETAILS, ARRAYS, TABLE, REPORT = (
    "run.json",
    "details.json",
    "scores.safetensors",
    "heads.csv",
    "report.html",
)
PROMPTS = ("prompts.json", "prompts.jsonl")
REFERENCE = "reference.safetensors"
_OWN = {RESULT, DETAILS, ARRAYS, TABLE, REPORT, *PROMPTS, REFERENCE}


@dataclass(frozen=True)
class Run:
    """One discovery's outcome; see the module docstring for where each part is kept.

    Attributes:
        result: model, task, method, seed, n_pairs, seconds, heads, mlps, edges, metric, recovery, versions, format,
            proposed, and how it came about (``provenance``, ``settings``, ``universe``, ``cost``).
        details: ``examples`` and ``members``, see :mod:`interp.runs.record`.
        arrays: ``heads_per_pair`` [pair, layer, head], ``mlps_per_pair``, ``effects`` [pair, candidate], ….
        own_reference: what ``settings["reference"]`` names.
        prompts: the task of a discovery just made, where it is a file of prompts: it is kept with the run.
    """

    result: dict
    details: dict = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    own_reference: ExactEffects | None = None
    prompts: PromptFile | None = None

    @property
    def members(self) -> list[dict]:
        """The circuit's heads and MLPs, largest absolute effect first; each has its ``site``."""
        inside = [part for part in (*self.result["heads"], *self.result["mlps"]) if part["in_circuit"]]
        return sorted(inside, key=lambda part: -abs(part["effect"]))

    @property
    def proposed_members(self) -> list[str]:
        """Of the heads that the method took for members before the check (``proposed``), those that are."""
        members = {part["site"] for part in self.members}
        return [site for site in (self.result.get("proposed") or {}).get("heads", ()) if site in members]

    def reference(self, name: str) -> Reference | ExactEffects:
        """What ``recovery`` knows by this name: the run's own, or one of the package. No other file is opened.

        Raises:
            InputError: neither.
        """
        if self.own_reference is not None and name == self.result.get("settings", {}).get("reference"):
            return self.own_reference
        return named_reference(name)

    @property
    def circuit(self) -> Circuit:
        """The checked components and their edges, as a circuit: JSON and EAP-IG graphs are written from it."""
        described = self.result["provenance"]["model"]
        kept = ("site", "effect", "effect_low", "effect_high", "in_circuit")
        return Circuit(
            model=self.result["model"],
            task=self.result["task"],
            method=self.result["method"],
            universe=self.result["universe"],
            n_layers=described["n_layers"],
            n_heads=described["n_heads"],
            metric={side: self.result["metric"][side] for side in ("clean", "corrupt")},
            components=tuple(
                Component(
                    **{key: part[key] for key in kept},
                    score=self._with_sign(part),
                    roles=part.get("roles", {}),
                    codes=self.details.get("members", {}).get(part["site"], {}).get("codes", {}),
                )
                for part in (*self.result["heads"], *self.result["mlps"])
            ),
            edges=tuple(
                EdgeScore(edge["from"], edge["to"], edge["into"], edge["score"])
                for edge in self.result["edges"]
            ),
            provenance=self.result["provenance"],
        )

    def _with_sign(self, part: dict) -> float | None:
        """A part's score; of a method whose scores tell no sign with that of the measured effect."""
        if self.result.get("settings", {}).get("signed", True):
            return part["score"]
        return None if part["effect"] is None else math.copysign(part["score"], part["effect"])

    def save(self, folder: Path | str, *, report: str | None = None, overwrite: bool = False) -> Path:
        """Write the folder. A run of the same request that is there is replaced, with ``overwrite`` any run.

        Raises:
            InputError: ``folder`` is something else, or cannot be written.
            OSError: writing failed half-way, a full disk say; nothing is left of it.
        """
        folder = Path(folder)
        check_destination(folder, self.result.get("request"), overwrite=overwrite)
        place = Path(os.path.realpath(folder))  # of a link what it leads to is replaced
        with self._written(place, report) as temporary:
            _replace(temporary, place)
        return folder

    def save_new(self, parent: Path, name: str, *, report: str | None = None) -> Path:
        """Write a folder of this name, or ``NAME-2``, ``NAME-3``, … where that is taken, and return it.

        Nothing that is there is replaced, whoever else is writing.

        Raises:
            OSError: as :meth:`save`.
        """
        with self._written(parent / name, report) as temporary:
            for number in itertools.count(1):
                folder = parent / (name if number == 1 else f"{name}-{number}")
                if folder.exists():  # an empty folder would be replaced without a word
                    continue
                try:
                    temporary.rename(folder)
                    return folder
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        raise
        raise AssertionError("numbers do not end")

    @contextlib.contextmanager
    def _written(self, folder: Path, report: str | None) -> Iterator[Path]:
        """The run in a temporary folder beside ``folder``, which is deleted unless it is moved away."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            temporary.chmod(0o777 & ~UMASK)
            write_json(temporary / RESULT, self.result)
            write_json(temporary / DETAILS, self.details, indent=None)  # mostly numbers of attention patterns
            with atomic_path(temporary / ARRAYS) as path:
                save_file({k: np.ascontiguousarray(v) for k, v in self.arrays.items()}, path)
            write_text(temporary / TABLE, self.to_csv())
            if self.own_reference is not None:
                self.own_reference.save(temporary / REFERENCE)
            if self.prompts is not None:
                (temporary / f"prompts{self.prompts.path.suffix.lower()}").write_bytes(self.prompts.data)
            if report is not None:
                write_text(temporary / REPORT, report)
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def sample_again(self, folder: Path, tokenizer, most: int) -> PromptPairs:
        """The first ``most`` of the run's pairs, made as they were.

        Of the tasks that a run may name only those that ship are made, and the prompts that lie in its folder: no
        other file is opened and no class is run because a run names it.

        Raises:
            InputError: another task, or prompts that are no longer made in this way.
        """
        name, how = self.result["task"], self.result.get("provenance", {}).get("pairs", {})
        kept = next((path for path in (folder / name for name in PROMPTS) if path.is_file()), None)
        if name in task_names():
            task = load_task(name)
        elif kept is not None:
            task = PromptFile(kept)
        else:
            raise InputError(
                f"the prompts of this run are not at hand: {name!r} is no task of this package, and no prompts lie "
                "in the run's folder (a discovery from a file of prompts keeps them there)"
            )
        n = min(most, self.result["n_pairs"])
        pairs = task.sample(
            tokenizer, n, self.result["seed"], how.get("counterfactual"), bos=bool(how.get("bos", True))
        )
        for example, pair in zip(self.details.get("examples", []), pairs, strict=False):
            sides = {"clean": pair.clean_tokens, "corrupt": pair.corrupt_tokens}
            if any(
                example[side] != [tokenizer.decode([token]) for token in ids] for side, ids in sides.items()
            ):
                raise InputError(
                    "the prompts of this run come out differently now, so nothing can be read beside its numbers: "
                    "run the discovery again"
                )
        return pairs

    def to_csv(self) -> str:
        """One row a head: layer, head, score, effect and its interval, membership, roles."""
        roles = sorted({role for head in self.result["heads"] for role in head["roles"]})
        columns = ["layer", "head", "score", "effect", "effect_low", "effect_high", "in_circuit"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, *roles])
        for head in self.result["heads"]:
            writer.writerow([head[c] for c in columns] + [head["roles"].get(role, "") for role in roles])
        return text.getvalue()

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run folder, or say in one line what is wrong with it."""
        folder = Path(folder)
        if not (folder / RESULT).is_file():
            raise InputError(
                f"{folder} is not a run folder: it has no {RESULT} (interp discover … --out makes one)"
            )
        try:
            result = _read(folder / RESULT, read_json)
            details = _read(folder / DETAILS, read_json)
            arrays = _read(folder / ARRAYS, load_file)
            own = ExactEffects.load(folder / REFERENCE) if (folder / REFERENCE).exists() else None
        except InputError as error:
            raise InputError(
                f"run folder {folder} is damaged ({error}): delete it, and run the discovery again"
            ) from None
        if not isinstance(result, dict) or result.get("format") != FORMAT:
            found = result.get("format") if isinstance(result, dict) else None
            raise InputError(f"run folder {folder} has format {found!r}: this version reads format {FORMAT}")
        fault = _fault(result, details, arrays)
        if fault:
            raise InputError(
                f"run folder {folder} is damaged ({fault}): delete it, and run the discovery again"
            )
        return cls(result, details, arrays, own)


def run_request(*, config: Any, **asked: Any) -> dict[str, Any]:
    """All that a run is asked for, as JSON; pairs per forward pass are no part of it."""
    settings = {key: value for key, value in asdict(config).items() if key != "batch_size"}
    return json.loads(json.dumps(asked | {"config": settings}, default=str))


def check_destination(folder: Path, request: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
    """Refuse, before the work, a folder with anything but a run of the same request; see :mod:`interp.files`."""
    check_folder(folder, "a run", contents=_OWN)
    if Path(folder).exists() and Path(folder).samefile(os.curdir):
        raise InputError(f"--out {folder} is the current folder: name another, such as runs/mine")
    if not overwrite and not _is_free(Path(folder), request):
        raise InputError(
            f"--out {folder} holds a run of another request: name another folder, or replace it with --overwrite"
        )


def free_folder(folder: Path, request: Mapping[str, Any]) -> Path:
    """``folder``, or ``folder-2``, … where a run of another request lies."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([folder], numbered) if _is_free(place, request))


def _is_free(folder: Path, request: Mapping[str, Any] | None) -> bool:
    path = folder / RESULT
    return not path.exists() or (request is not None and request_of(path) == request)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What a file holds, or in one line why it cannot be read, with its name."""
    try:
        return reader(path)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(f"{path.name}: {getattr(error, 'strerror', None) or one_line(error)}") from None


def _fault(result: dict, details: object, arrays: dict[str, np.ndarray]) -> str | None:
    """What makes a run unreadable for what follows, or ``None``."""
    from interp.runs.run_format import (
        fault_of_arrays,
        fault_of_details,
        fault_of_result,
    )  # pydantic is heavy, and most commands read no run

    for name, fault in ((RESULT, fault_of_result(result)), (DETAILS, fault_of_details(details))):
        if fault:
            return f"{name} {fault}"
    shape = tuple(1 + max(head[key] for head in result["heads"]) for key in ("layer", "head"))
    if fault := _gap(result["heads"], shape):
        return f"{RESULT} {fault}"
    fault = fault_of_arrays(result, arrays)
    return f"{ARRAYS} {fault}" if fault else None


def _gap(heads: list[dict], shape: tuple[int, ...]) -> str | None:
    """What keeps heads from filling a grid of layers, in reading order."""
    wanted = ((layer, head) for layer in range(shape[0]) for head in range(shape[1]))
    for part, (layer, head) in zip(heads, wanted, strict=False):
        if (part["layer"], part["head"], part["site"]) != (layer, head, f"a{layer}.h{head}"):
            return f"heads: {part['site']} of layer {part['layer']} stands where a{layer}.h{head} should"
    return (
        None if len(heads) == shape[0] * shape[1] else f"heads: {len(heads)}, which fill no grid of {shape}"
    )


def _replace(temporary: Path, folder: Path) -> None:
    """Swap the finished folder in; the old one is moved aside first and deleted last."""
    if not folder.exists():
        try:
            temporary.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else another process has put one there in between
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = aside / folder.name
    try:
        folder.rename(old)
        temporary.rename(folder)
    except BaseException:  # an interrupt between the two as well: the earlier run goes back
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
