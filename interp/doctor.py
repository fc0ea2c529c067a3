"""What `interp doctor` checks: that this installation gives right answers, not only that it imports."""

import importlib.metadata
import platform
from dataclasses import dataclass

import torch

from interp.models import load_model
from interp.models.embedded import cache_folder
from interp.models.generate import generate
from interp.tasks.errors import InputError


@dataclass(frozen=True)
class Finding:
    """One check: whether it passed and what was seen."""

    name: str
    ok: bool
    detail: str


def diagnose() -> list[Finding]:
    """Run every check; a failing one does not stop the others."""
    findings = [
        Finding("python", True, platform.python_version()),
        *(
            Finding(name, True, importlib.metadata.version(name))
            for name in ("torch", "transformer-lens", "transformers", "sae-lens")
        ),
        Finding("device", True, "cuda" if torch.cuda.is_available() else "cpu"),
        Finding("cache", True, str(cache_folder())),
    ]
    try:
        model = load_model()
    except InputError as error:
        return [*findings, Finding("embedded model", False, str(error))]
    cfg = model.cfg
    findings.append(Finding("embedded model", True, f"{cfg.n_layers} layers × {cfg.n_heads} heads"))
    return [*findings, _cached_generation(model)]


def _cached_generation(model) -> Finding:
    """transformers 5.24 broke the KV cache without an error: only comparing shows it."""
    prompt = "The capital of France is"
    cached, plain = (generate(model, prompt, 8, use_cache=use_cache) for use_cache in (True, False))
    same = bool(torch.equal(torch.as_tensor(cached), torch.as_tensor(plain)))
    detail = (
        "the same with and without the KV cache"
        if same
        else "differs with the KV cache: reinstall transformers <5.24"
    )
    return Finding("generation", same, detail)
