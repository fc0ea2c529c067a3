"""Effects measured so far, on disk after every step, so that a killed sweep goes on where it stopped."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from interp.files import atomic_path
from interp.models import Model, Site, describe_model, weights_checksum
from interp.tasks.errors import InputError
from interp.tasks.pairs import PromptPairs


class PartialEffects:
    """A [pair, site] array with NaN where nothing is known yet, mirrored to a safetensors file if there is one."""

    def __init__(self, effects: np.ndarray, path: Path | None, fingerprint: str) -> None:
        self.effects = effects
        self.path = path
        self.fingerprint = fingerprint

    @classmethod
    def open(
        cls, path: Path | None, model: Model, pairs: PromptPairs, sites: Sequence[Site]
    ) -> "PartialEffects":
        """Start, or resume the file at ``path``, which must be of the same model, pairs and sites."""
        effects = np.full((len(pairs), len(sites)), np.nan)
        if path is None:
            return cls(effects, path, "")  # which nothing reads: the weights need not be hashed
        fingerprint = _fingerprint(model, pairs, sites)
        if not path.exists():
            return cls(effects, path, fingerprint)
        try:
            with safe_open(path, framework="numpy") as file:
                known = (file.metadata() or {}).get("fingerprint")
                stored = file.get_tensor("effects")
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"checkpoint {path} cannot be read ({error}): delete it to start again"
            ) from None
        if known != fingerprint or stored.shape != effects.shape:
            raise InputError(
                f"checkpoint {path} belongs to another model, task, seed or set of sites: "
                "delete it, or give another path"
            )
        return cls(stored.astype(np.float64), path, fingerprint)

    def done(self, rows: list[int]) -> np.ndarray:
        """Which sites are known for all these pairs, [site] booleans."""
        return ~np.isnan(self.effects[rows]).any(0)

    def record(self, rows: list[int], columns: list[int], values: np.ndarray) -> None:
        self.effects[np.ix_(rows, columns)] = values
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                save_file({"effects": self.effects}, temporary, metadata={"fingerprint": self.fingerprint})


def _fingerprint(model: Model, pairs: PromptPairs, sites: Sequence[Site]) -> str:
    known = {key: value for key, value in describe_model(model).items() if key != "device"}
    identity = json.dumps(
        [known, weights_checksum(model), pairs.digest(), [str(s) for s in sites]],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(identity.encode()).hexdigest()
