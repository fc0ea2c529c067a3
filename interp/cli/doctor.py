"""What `interp doctor` checks: that this installation gives right answers, not only that it imports.

What it imports it imports in the checks: of an installation that lacks something this is the place that says so.
"""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

PLANTED = "planted-induction"


@dataclass(frozen=True)
class Finding:
    """One check: whether it passed and what was seen."""

    name: str
    ok: bool
    detail: str


class Wrong(Exception):
    """A check ran to its end and saw what should not be."""


def diagnose(spec: str | None = None) -> Iterator[Finding]:
    """Run every check, quick ones first; a failing one does not stop the others. Without a spec it is the default model
    that is loaded."""
    for name in ("python", "torch", "transformer-lens", "transformers", "sae-lens"):
        yield _try(name, partial(_version, name))
    for name, check in {"device": _device, "cache": _cache, "planted circuit": _planted_circuit}.items():
        yield _try(name, check)
    loaded: list[Any] = []
    described = _try(spec or "embedded model", partial(_load, spec, loaded))
    yield described
    if described.ok:
        yield _try("generation", partial(_cached_generation, *loaded))


def _try(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except Wrong as error:
        return Finding(name, False, str(error))
    except Exception as error:  # whatever a broken installation does: this is the place that reports it
        return Finding(name, False, " ".join(f"{type(error).__name__}: {error}".split()))


def _version(name: str) -> str:
    if name == "python":
        return platform.python_version()
    if name == "sae-lens" and importlib.metadata.version("transformer-lens") >= "4":
        return "not needed: it wants transformer-lens below 4"
    return importlib.metadata.version(name)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _cache() -> str:
    from interp.files import check_writable
    from interp.models.embedded import cache_folder

    folder = cache_folder()
    check_writable(folder / "models", "INTERP_CACHE")
    return str(folder)


def _planted_circuit() -> str:
    """Whether a discovery finds a circuit that is known: a wrong torch or transformers shows here."""
    from interp.planted.models import planted_truth
    from interp.runs.discover import find_circuit

    members = {part.site for part in find_circuit(PLANTED, PLANTED, n=8).members}
    truth = set(planted_truth(PLANTED).heads)
    if members != truth:
        raise Wrong(f"found {', '.join(sorted(members))}, but {', '.join(sorted(truth))} was written")
    return f"found whole, {len(truth)} heads of {PLANTED}"


def _load(spec: str | None, loaded: list[Any]) -> str:
    from interp.models import load_model

    model = load_model(spec) if spec else load_model()
    loaded.append(model)
    return f"{model.cfg.n_layers} layers × {model.cfg.n_heads} heads"


def _cached_generation(model: Any) -> str:
    """transformers 5.24 broke the KV cache without an error: only comparing shows it."""
    import torch

    from interp.models.generate import generate

    cached, plain = (
        generate(model, "The capital of France is", 8, use_cache=use_cache, return_type="tokens")
        for use_cache in (True, False)
    )
    if not torch.equal(cached, plain):
        raise Wrong("differs with the KV cache: reinstall transformers <5.24")
    return "the same with and without the KV cache"
