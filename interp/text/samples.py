"""The model's own samples: text that it finds likely, for any model and without any data.

Sampled at temperature 1 from BOS. Batches are generated one after the other, each from a seed of its own, and kept in
the cache folder by model and parameters: the same ones serve every later call, a longer call adds to them, and
a killed one loses only the batch at work.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.files import atomic_path
from interp.models import Model, describe_model, model_device, weights_digest
from interp.models.embedded import cache_folder
from interp.models.generate import generate
from interp.models.hooks import as_it_is
from interp.models.positions import forwards_watched
from interp.progress import Stage, silent
from interp.tasks.errors import InputError
from interp.text.special import ends, first_token, until_end

BATCH, LENGTH = 128, 128
"""Samples a batch, and their length in tokens without BOS. Batches of 128 are twice as fast as of 32 on two cores."""
_FORMAT = 1


class ModelSamples:
    """See the module's docstring.

    Args:
        batch: samples generated at once.
        length: tokens of each sample at most; fewer where the model's context is shorter.
    """

    endless = True
    spec = "self"

    def __init__(self, _options: str = "", *, batch: int = BATCH, length: int = LENGTH) -> None:
        self.batch, self.length = batch, length

    def documents(self, model: Model, *, seed: int, stage: Stage = silent) -> Iterator[tuple[int, ...]]:
        """Endless: as many batches as are asked for are generated, up to each sample's end-of-text."""
        length = min(self.length, model.cfg.n_ctx - 1)
        stops = ends(model)
        number = 0
        while True:
            for row in self._batch(model, number, seed, length, stage).tolist():
                yield tuple(until_end(row, stops))
            number += 1

    def _batch(
        self, model: Model, number: int, seed: int, length: int, stage: Stage
    ) -> Int[Tensor, "sample pos"]:
        """Samples without BOS, from the cache or new."""
        path = self.folder(model, seed, length) / f"{number:05}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two processes need not sample the same
            if path.exists():
                try:
                    return load_file(path)["tokens"].long()
                except (SafetensorError, KeyError, OSError):
                    pass  # damaged: made anew below
            tokens = self._sample(model, number, seed, length, stage)
            with atomic_path(path) as temporary:
                save_file({"tokens": tokens.int()}, temporary)
        return tokens

    def _sample(
        self, model: Model, number: int, seed: int, length: int, stage: Stage
    ) -> Int[Tensor, "sample pos"]:
        begin = first_token(model.tokenizer)
        if begin is None:
            raise InputError(
                "text 'self': the model's tokenizer has neither BOS nor EOS to start a sample from"
            )
        start = torch.full((self.batch, 1), begin, device=model_device(model))
        own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")
        with (
            as_it_is(model, "text of the source 'self'"),
            stage(f"sampling text, batch {number + 1}", length) as done,
            forwards_watched(model, lambda _offset: done(1)),
        ):
            tokens = generate(model, start, length, temperature=1.0, seed=own_seed)[:, 1:].cpu()
        if tokens.shape[1] < length:  # every sample ended early
            tokens = torch.nn.functional.pad(
                tokens, (0, length - tokens.shape[1]), value=model.tokenizer.eos_token_id
            )
        return tokens

    def folder(self, model: Model, seed: int, length: int) -> Path:
        """Where this model's samples lie: its revision, weights and shape, and the parameters name the folder.

        Not device and dtype: a model is measured on the same text wherever it runs.
        """
        known = {key: value for key, value in describe_model(model).items() if key not in ("device", "dtype")}
        digest = weights_digest(model)
        identity = json.dumps([_FORMAT, known, digest, self.batch, length, seed], sort_keys=True)
        name = str(known["spec"] or "model").rpartition("/")[2]
        return cache_folder() / "samples" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
