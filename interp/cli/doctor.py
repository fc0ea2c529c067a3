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


def diagnose(spec: str | None = None) -> Iterator[Finding]:
    """Run every check, quick ones first; a failing one does not stop the others. Without a spec it is the default model
    that is loaded."""
    yield Finding("python", True, platform.python_version())
    for name in ("torch", "transformer-lens", "transformers", "sae-lens"):
        yield _try(name, partial(_version, name))
    yield _try("device", _device)
    yield _try("cache", _cache)
    yield _try("planted circuit", _planted_circuit)
    name = spec or "embedded model"
    try:
        from interp.models import load_model

        model = load_model(spec) if spec else load_model()
    except Exception as error:
        yield _failure(name, error)
        return
    cfg = model.cfg
    yield Finding(name, True, f"{cfg.n_layers} layers × {cfg.n_heads} heads")
    yield _try("generation", lambda: _cached_generation(model))


def _try(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # whatever a broken installation does: this is the place that reports it
        return _failure(name, error)


def _failure(name: str, error: Exception) -> Finding:
    return Finding(name, False, " ".join(f"{type(error).__name__}: {error}".split()))


def _version(name: str) -> Finding:
    if name == "sae-lens" and importlib.metadata.version("transformer-lens") >= "4":
        return Finding(name, True, "not needed: it wants transformer-lens below 4")
    return Finding(name, True, importlib.metadata.version(name))


def _device() -> Finding:
    import torch

    return Finding("device", True, "cuda" if torch.cuda.is_available() else "cpu")


def _cache() -> Finding:
    from interp.files import check_writable
    from interp.models.embedded import cache_folder

    folder = cache_folder()
    check_writable(folder / "models", "INTERP_CACHE")
    return Finding("cache", True, str(folder))


def _planted_circuit() -> Finding:
    """Whether a discovery finds a circuit that is known: a wrong torch or transformers shows here."""
    from interp.planted.models import planted_truth
    from interp.runs.discover import find_circuit

    run = find_circuit(PLANTED, PLANTED, n=8)
    found, wanted = {part.site for part in run.members}, set(planted_truth(PLANTED).heads)
    if found == wanted:
        return Finding("planted circuit", True, f"found whole, {len(wanted)} heads of {PLANTED}")
    return Finding(
        "planted circuit",
        False,
        f"found {', '.join(sorted(found))}, but {', '.join(sorted(wanted))} was written",
    )


def _cached_generation(model: Any) -> Finding:
    """transformers 5.24 broke the KV cache without an error: only comparing shows it."""
    import torch

    from interp.models.generate import generate

    prompt = "The capital of France is"
    cached, plain = (
        generate(model, prompt, 8, use_cache=use_cache, return_type="tokens") for use_cache in (True, False)
    )
    same = torch.equal(cached, plain)
    detail = (
        "the same with and without the KV cache"
        if same
        else "differs with the KV cache: reinstall transformers <5.24"
    )
    return Finding("generation", same, detail)
