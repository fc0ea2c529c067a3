"""A training run on disk: from a folder of fitted books and blocks of text to a folder of trained books.

::

    manifest.json          as of fitted books, with ``training``; written last
    a0/ a1/ …              the trained books
    training.json          what every step measured
    model/                 joint training: the finetuned model, which the books belong to
    .work/checkpoints/     while it runs

Everything that the rest of the run depends on is in a checkpoint: codes, their usage, the optimizer's moments, in joint
training the model's weights, and in the file's metadata the step, what was asked for, and the history so far. What is
drawn at a step is drawn from a generator seeded by the run's seed and the number of the step.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from interp.bottlenecks import store
from interp.bottlenecks.dictionary import Dictionary
from interp.bottlenecks.processes import first, share_of, wait, world
from interp.errors import InputError
from interp.files import atomic_path, parse_json, read_tensors, write_json
from interp.models import Model, model_device
from interp.models.save import check_saveable, save_model
from interp.progress import Stage, silent
from interp.text import TextBlocks, load_text
from interp.training.centroid_refit import TOKENS, refit_centroids
from interp.training.config import TrainConfig
from interp.training.trainer import StepResult, Trainer, drawn_from

KEPT = 2  # the one before the last stays, in case the last is damaged


History = dict[str, list[float | None]]  # by measure one value a step


class Checkpoints:
    """Those of one run, in a folder of their own; one of another ``request`` is refused."""

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder, self.request = Path(folder), json.loads(json.dumps(request))

    def save(self, step: int, tensors: Mapping[str, Tensor], history: History) -> None:
        """Write it, then delete all but the last two; refuses NaN and infinite values."""
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise InputError(f"step {step}: {name} holds NaN or infinite values; {self.kept()}")
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        about = {"step": step, "request": self.request, "history": history}
        with atomic_path(self.folder / f"step-{step:08}.safetensors") as temporary:
            save_file(whole, temporary, metadata={"run": json.dumps(about)})
        for path in self._paths()[:-KEPT]:
            path.unlink()

    def latest(self) -> tuple[int, dict[str, Tensor], History] | None:
        """The steps done by the last one, its tensors and history; refuses one that is damaged or of another run."""
        paths = self._paths()
        if not paths:
            return None
        path = paths[-1]
        try:
            tensors, header = read_tensors(path)
            about = parse_json(header["run"])
            step, history, request = (about[key] for key in ("step", "history", "request"))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            before = f"goes on from {paths[-2].name}" if len(paths) > 1 else "starts again"
            raise InputError(f"the checkpoint {path} is damaged ({error}): delete it, and the run {before}") from None
        store.check_request(path, request, self.request, made="a checkpoint")
        return step, tensors, history

    def kept(self) -> str:
        """Which checkpoint there is to go on from, in words."""
        paths = self._paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))


HISTORY_FILE = "training.json"
TRAIN_TOKENS = 100_000
Watch = Callable[[int, int, StepResult], None]
"""Told at every checkpoint: steps done, steps in all, what the last one measured."""


def train_codebooks(
    model: Model,
    codebooks: store.Codebooks,
    text: str | TextBlocks = "stdlib+self",
    folder: Path | str | None = None,
    config: TrainConfig | None = None,
    *,
    n_tokens: int = TRAIN_TOKENS,
    stage: Stage = silent,
    watch: Watch = lambda *_: None,
    **options: Any,
) -> store.Codebooks:
    """Train codebooks further, into new ones; goes on where a killed run of the same request stopped.

    >>> trained = train_codebooks(model, few, "stdlib", n_tokens=640, lr=0.01)

    A run that goes on repeats the losses of one that was never killed, on the same device and number of threads. In
    joint training ``model`` is finetuned where it is, and written into the folder; to go on where one was killed in the
    same process, load it anew. In processes of torchrun each step's batch is shared out among them
    (:mod:`interp.bottlenecks.processes`); the first writes the folder, which all can read.

    Args:
        text: blocks of the split ``train``, or a spec of :mod:`interp.text.sources`, of which ``n_tokens`` are read in
            blocks as the codebooks were fitted on.
        folder: where they are written; None keeps them in memory, and needs a frozen model.
        options: fields of :class:`TrainConfig`, over those of ``config``.
    """
    config = replace(config or TrainConfig(), **options)
    context = codebooks.manifest["text"]["context"]
    text = load_text(text, model, n_tokens=n_tokens, context=context, seed=config.seed, stage=stage)
    if folder is None:
        if config.objective == "joint":
            raise InputError("joint training finetunes the model: name a folder that it is written to")
        with TemporaryDirectory(prefix="codebooks-") as place:
            return train_codebooks(model, codebooks, text, place, config, stage=stage, watch=watch).in_memory()
    folder = Path(folder)
    if text.split != "train":
        raise InputError(f"text of the split {text.split!r}: codebooks are trained on 'train' only")
    codebooks.check_model(model)
    device = model_device(model)
    books = {site: book.with_k(book.config.k).to(device) for site, book in codebooks.items()}  # copies
    config = config.for_books(books)
    n_steps = config.epochs * (len(text.tokens) // config.batch_size)
    if n_steps == 0:
        raise InputError(f"{len(text.tokens)} blocks of text: a batch is {config.batch_size}")
    if config.batch_size * (text.tokens.shape[1] - 1) < 2:
        raise InputError("a batch of one vector has no variance to explain: take longer blocks or more of them")
    if config.objective == "joint":
        check_saveable(model)
    if config.batch_size % world():
        raise InputError(
            f"batch_size {config.batch_size} on {world()} processes: it is of all of them, so give a multiple"
        )
    request = _request(model, codebooks, books, text, config)
    if store.is_store(folder):
        trained = store.Codebooks.from_pretrained(folder)
        if "training" not in trained.manifest:
            raise InputError(f"{folder} holds fitted codebooks: write the trained ones to another folder")
        store.check_request(folder, {**trained.manifest, "model": trained.manifest["training"]["base"]}, request)
        shutil.rmtree(folder / store.WORK, ignore_errors=True)  # of a run that was killed while it cleared up
        return trained
    # the first of several processes holds it for all
    with store.being_filled(folder, "training") if first() else contextlib.nullcontext():
        if first():
            store.begin_request(folder, request)
        wait()
        checkpoints = Checkpoints(folder / store.WORK / "checkpoints", request)
        same_start = bool((text.tokens[:, 0] == text.tokens[0, 0]).all())
        trainer = Trainer(model, books, config, n_steps, same_start=same_start)
        _train(trainer, text.tokens, checkpoints, folder, stage, watch)
        trainer.finish()
        if first():
            for blocks in refit_blocks(text.tokens, config):
                refit_centroids(model, books, blocks, folder / store.WORK, stage)
            _finish(trainer, folder, request)
        wait()
        return store.Codebooks.from_pretrained(folder)


def _train(
    trainer: Trainer,
    blocks: Int[Tensor, "block pos"],
    checkpoints: Checkpoints,
    folder: Path,
    stage: Stage,
    watch: Watch,
) -> None:
    config, n_steps = trainer.config, trainer.n_steps
    history: History = {name: [] for name in StepResult.__dataclass_fields__}
    begin = 0
    if (last := checkpoints.latest()) is not None:
        begin, tensors, history = last
        trainer.restore(tensors)
    device = next(trainer.model.parameters()).device
    with stage(f"training, {config.objective}", n_steps) as done:
        done(begin)
        for number in range(begin, n_steps):
            batch = blocks[share_of(batch_of(number, len(blocks), config))]
            try:
                result = trainer.step(number, batch.to(device))
            except InputError as error:
                raise InputError(f"step {number + 1} of {n_steps}: {error}; {checkpoints.kept()}") from None
            for name, values in history.items():
                values.append(getattr(result, name))
            done(1, describe(result))
            if first() and ((number + 1) % config.checkpoint_every == 0 or number + 1 == n_steps):
                checkpoints.save(number + 1, trainer.state(), history)
                write_json(folder / HISTORY_FILE, history)
                watch(number + 1, n_steps, result)


def batch_of(number: int, n_blocks: int, config: TrainConfig) -> Int[Tensor, " block"]:
    """Which blocks step ``number`` sees: each epoch is in an order of its own, and leaves out what fills no batch."""
    epoch, place = divmod(number, n_blocks // config.batch_size)
    order = torch.randperm(n_blocks, generator=drawn_from(config.seed, "order", epoch))
    return order[place * config.batch_size :][: config.batch_size]


def refit_blocks(blocks: Int[Tensor, "block pos"], config: TrainConfig) -> Iterator[Int[Tensor, "some pos"]]:
    """The text of each round of refitting, drawn from all of it."""
    most = max(1, TOKENS // blocks.shape[1])
    for number in range(config.centroid_refits):
        order = torch.randperm(len(blocks), generator=drawn_from(config.seed, "settle", number))
        yield blocks[order[:most]]


def describe(result: StepResult) -> str:
    nats = {"loss": result.loss, "KL": result.kl, "CE": result.ce}
    known = [f"{name} {value:.3f}" for name, value in nats.items() if value is not None]
    return "  ".join([*known, f"explained {result.explained:.2f}", f"dead {result.dead:.1%}"])


def _finish(trainer: Trainer, folder: Path, request: dict[str, Any]) -> None:
    for site, book in trainer.books.items():
        book._save_pretrained(folder / site)
    if trainer.weights:
        save_model(trainer.model, folder / store.MODEL_FOLDER)
        saved = str((folder / store.MODEL_FOLDER).resolve())
        identity = store.model_identity(trainer.model)
        request = {**request, "model": {**identity, "spec": saved, "source": saved, "revision": None}}
    store.Codebooks.finish(folder, request)


def _request(
    model: Model, start: store.Codebooks, books: dict[str, Dictionary], text: TextBlocks, config: TrainConfig
) -> dict[str, Any]:
    """What the trained books depend on, as JSON values."""
    identity = store.model_identity(model)
    return {
        "model": identity,
        "sites": start.sites,
        "fit": dict(start.manifest["fit"]),
        "text": dict(start.manifest["text"]),
        "training": {
            # how often checkpoints are written changes nothing that is found: every request says the same
            **asdict(replace(config, checkpoint_every=TrainConfig.checkpoint_every)),
            "base": identity,
            "text": store.describe_text(text),
            "start": {"fingerprint": store.codebooks_fingerprint(books), "training": start.manifest.get("training")},
        },
    }
