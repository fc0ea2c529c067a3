"""The folder of a run: written, read, named, and what is sampled again from the prompts in it.

It is filled under a temporary name and renamed: a reader never meets half a run, and an interrupted or failed
discovery leaves an earlier run at the same place as it was.
"""

import contextlib
import csv
import errno
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.bottlenecks.kinds.codebook import CodebookConfig
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.circuits.circuit import Validity
from interp.circuits.references import ExactEffects
from interp.errors import InputError, fault, one_line
from interp.files import atomic_path, check_folder, readable, request_of, write_text
from interp.programs.program import Program
from interp.runs.run import Run
from interp.tasks import PromptPairs, Task, load_task, load_task_file, task_names

RESULT = "run.json"  # the :class:`~interp.runs.run.Run` as JSON, as ``interp discover --json`` prints it
ARRAYS = "scores.safetensors"  # its arrays, and the codebooks of the program's slots
TABLE = "heads.csv"
PROMPTS = ("prompts.json", "prompts.jsonl")  # one of them, where the prompts came from a file
REFERENCE = "reference.safetensors"  # the reference of one's own, where one was given
VALIDITY = "validity.json"  # the card of ``interp validate``, where that was run
REPORT = "report.html"
_CONTENTS = {RESULT, ARRAYS, TABLE, *PROMPTS, REFERENCE, VALIDITY, REPORT}


def save_run(run: Run, folder: Path | str, *, report: str | None = None, overwrite: bool = False) -> Path:
    folder = Path(folder)
    check_destination(folder, run.request, overwrite=overwrite)
    place = Path(os.path.realpath(folder))  # of a link what it leads to is replaced
    with _written(run, place, report) as finished:
        _replace(finished, place)
    return folder


def save_new_run(run: Run, parent: Path, name: str, *, report: str | None = None) -> Path:
    """:meth:`~interp.runs.run.Run.save_new`; nothing that is there is replaced, whoever else is writing."""
    with _written(run, parent / name, report) as finished:
        return next(place for place in _numbered(parent / name) if _moves(finished, place))


def save_validity(run: Run, folder: Path | str) -> Path:
    assert run.validity is not None
    path = Path(folder) / VALIDITY
    write_text(path, run.validity.model_dump_json(indent=1) + "\n")
    return path


def save_judged(run: Run, folder: Path | str) -> None:
    """Write a run's result again, where its program was judged; nothing else in the folder changes."""
    write_text(Path(folder) / RESULT, run.model_dump_json(indent=1) + "\n")


def load_run(folder: Path | str) -> Run:
    folder = Path(folder)
    if not (folder / RESULT).is_file():
        raise InputError(f"{folder} is not a run folder: it has no {RESULT} (interp discover … --out makes one)")
    texts = f"run folder {folder}", "run the discovery again"
    run = _read(folder / RESULT, lambda path: Run.from_json(path.read_bytes()), *texts)
    _read(folder / ARRAYS, partial(_fill_arrays, run), *texts)
    if (folder / REFERENCE).exists():
        run.own_reference = _read(folder / REFERENCE, ExactEffects.load, *texts)
    if (card := folder / VALIDITY).exists():
        run.validity = _read(
            card,
            lambda path: Validity.model_validate_json(path.read_bytes()),
            f"the card in {folder}",
            f"delete {card} and run interp validate {folder}",
        )
    return run


def check_destination(folder: Path, request: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Refuse, before the work, a folder with anything but a run of the same request; see :mod:`interp.files`."""
    check_folder(folder, "a run", contents=_CONTENTS)
    if folder.exists() and folder.samefile(os.curdir):
        raise InputError(f"--out {folder} is the current folder: name another, such as runs/mine")
    if not overwrite and not _is_free(folder, request):
        raise InputError(
            f"--out {folder} holds a run of another request: name another folder, or replace it with --overwrite"
        )


def free_folder(folder: Path, request: Mapping[str, Any]) -> Path:
    """``folder``, or ``folder-2``, … where a run of another request lies."""
    return next(place for place in _numbered(folder) if _is_free(place, request))


def kept_prompts(folder: Path | str) -> Path | None:
    """The prompts that lie with a run, where it was asked for with a file of them."""
    return next((path for name in PROMPTS if (path := Path(folder) / name).is_file()), None)


def task_of(run: Run, folder: Path | str | None) -> Task:
    """The run's task.

    Of the tasks that a run may name only those that ship are made, and the prompts that lie in its folder: no other
    file is opened and no class is run because a run names it. :class:`InputError`: another task.
    """
    if run.task in task_names():
        return load_task(run.task)
    path = kept_prompts(folder) if folder else None
    prompts = run.prompts if path is None else load_task_file(path)
    if prompts is None:
        raise InputError(
            f"the prompts of this run are not at hand: {run.task!r} is no task of this package, and no prompts lie "
            "in the run's folder (a discovery from a file of prompts keeps them there)"
        )
    return prompts


def pairs_of(run: Run, folder: Path | str | None, tokenizer: Any, most: int) -> PromptPairs:
    """The first ``most`` of the run's pairs, made as they were. :class:`InputError`: as :func:`task_of`, or prompts
    that are no longer made in this way."""
    made = run.provenance.pairs
    pairs = task_of(run, folder).sample(tokenizer, min(most, run.n_pairs), run.seed, made.counterfactual, bos=made.bos)
    for example, pair in zip(run.examples, pairs, strict=False):
        sides = ((example.clean, pair.clean_tokens), (example.corrupt, pair.corrupt_tokens))
        if any(kept != [tokenizer.decode([token]) for token in sampled] for kept, sampled in sides):
            raise InputError(
                "the prompts of this run come out differently now, so nothing can be read beside its numbers: "
                "run the discovery again"
            )
    return pairs


def heads_csv(run: Run) -> str:
    """One row a head: layer, head, score, effect and its interval, membership, roles."""
    columns = ["layer", "head", "score", "effect", "low", "high", "in_circuit"]
    columns += sorted({role for head in run.heads for role in head.roles})
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(head.roles | vars(head) for head in run.heads)
    return text.getvalue()


@contextlib.contextmanager
def _written(run: Run, folder: Path, report: str | None) -> Iterator[Path]:
    """The run in a temporary place beside ``folder``, which is deleted with what lies there in the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True) as place:
        finished = Path(place) / folder.name
        finished.mkdir()
        write_text(finished / RESULT, run.model_dump_json(indent=1) + "\n")
        with atomic_path(finished / ARRAYS) as path:
            books = {} if run.program is None else run.program.books
            tensors = {f"{name} {slot}": book.tensors()[name] for slot, book in books.items() for name in _BOOK}
            arrays = run.arrays | {name: tensor.detach().numpy() for name, tensor in tensors.items()}
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        write_text(finished / TABLE, heads_csv(run))
        if run.own_reference is not None:
            run.own_reference.save(finished / REFERENCE)
        if run.prompts is not None:
            (finished / f"prompts{run.prompts.path.suffix.lower()}").write_bytes(run.prompts.data)
        if run.validity is not None:
            save_validity(run, finished)
        if report is not None:
            write_text(finished / REPORT, report)
        yield finished


def _moves(finished: Path, folder: Path) -> bool:
    """Move the finished folder to its place, unless something lies there; whether it moved."""
    if folder.exists():  # an empty folder would be replaced without a word
        return False
    try:
        finished.rename(folder)
    except OSError as error:  # somebody else was there in between
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


def _replace(finished: Path, folder: Path) -> None:
    """Move the finished folder in; an earlier one is moved aside first, and goes with the temporary place."""
    if _moves(finished, folder):
        return
    old = finished.with_name("old")
    try:
        folder.rename(old)
        finished.rename(folder)
    except BaseException:  # an interrupt between the two as well: the earlier run goes back
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def _numbered(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))


def _is_free(folder: Path, request: Mapping[str, Any]) -> bool:
    return not (folder / RESULT).exists() or request_of(folder / RESULT) == request


def _read(path: Path, reader: Callable[[Path], Any], name: str, remedy: str) -> Any:
    try:
        return reader(readable(path))
    except OSError as error:
        why = error.strerror or one_line(error)
        raise InputError(f"{name} cannot be read ({path.name}: {why})") from None
    except ValidationError as error:
        wrong = fault(error)
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        wrong = one_line(error).removeprefix(f"{path}: ")
    raise InputError(f"{name} is damaged or of another version ({path.name}: {wrong}): {remedy}")


def _fill_arrays(run: Run, path: Path) -> None:
    """Read a run's arrays and codebooks; raises :class:`ValueError` where they are not those of the run."""
    run.arrays = load_file(path)
    if run.program is not None:
        run.program.books = _pop_books(run.arrays, run.program)
    n_tokens = len(run.examples[0].clean) if run.examples else 0
    shapes = {
        "heads": run.shape,
        "heads_per_pair": (run.n_pairs, *run.shape),
        "mlps_per_pair": (run.n_pairs, len(run.mlps)),
        "effects": (run.n_pairs, len(run.checked)),
        "metric_clean": (run.n_pairs,),
        "metric_corrupt": (run.n_pairs,),
        "patterns": (len(run.circuit.heads), n_tokens, n_tokens),
    }
    # not every method has scores per pair; an interval was drawn from them
    drawn = any(judged.interval is not None for judged in run.recovery.values())
    if lacking := {"heads", *["heads_per_pair"] * drawn} - run.arrays.keys():
        raise ValueError(f"it lacks {' and '.join(sorted(lacking))}")
    for name in shapes.keys() & run.arrays.keys():
        array, shape = run.arrays[name], shapes[name]
        if array.shape != shape:
            raise ValueError(f"{name}: of shape {array.shape}, and {RESULT} implies {shape}")
        known = np.isfinite(array)
        # a candidate that few pairs have settled is patched on no more
        if not (known.any(0).all() if name == "effects" else known.all()):
            raise ValueError(f"{name}: not all finite numbers")


_BOOK = ("codes", "counts", "metric")
"""The tensors of a slot's codebook; each lies under its name and the slot's among the arrays."""


def _pop_books(arrays: dict[str, np.ndarray], program: Program) -> dict[str, MetricCodebook]:
    books = {}
    for coded in program.slots:
        tensors = {name: torch.from_numpy(arrays.pop(f"{name} {coded.slot}")) for name in _BOOK}
        _, n_codes, d_in = tensors["codes"].shape
        if n_codes != coded.codes:
            raise ValueError(f"{n_codes} codes at {coded.slot}, and {RESULT} says {coded.codes}")
        config = CodebookConfig(d_in, n_codes, selection="matching_pursuit")
        books[str(coded.slot)] = MetricCodebook.restored(config, tensors)
    return books
