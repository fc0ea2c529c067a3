"""Runs that look like real ones, for tests of what is drawn from them: no model is run."""

import itertools
import json

import numpy as np

from interp.bench.table import METRICS
from interp.circuits.circuit import Validity
from interp.circuits.references import load_reference, reference_for
from interp.evaluation.recovery import recover
from interp.runs.run import Judged, Run

EVIL = "</title></script><script>window.hacked=1</script><img src=x onerror=window.hacked=2><b>'\"&"
ROLES = ("previous-token", "duplicate-token", "induction", "mover", "negative-mover", "inhibition")
_STORY = "Then , Mary and John went to the store. After a while John gave a drink to"


def make_run(
    *,
    n_layers: int = 30,
    n_heads: int = 9,
    members: int = 14,
    mlp_members: int = 0,
    mlps: bool = True,
    per_pair: bool = True,
    n_pairs: int = 40,
    n_tokens: int = 20,
    evil: bool = False,
    task: str = "ioi",
    model: str = "smollm2-135m-instruct",
    method: str = "attribution",
    references: tuple[str, ...] = (),
    seed: int = 0,
) -> Run:
    """A run of any shape; ``evil`` puts markup into every text that comes from outside."""
    rng = np.random.default_rng(seed)
    scores, size = rng.laplace(0, 0.01, (n_layers, n_heads)), n_layers * n_heads
    chosen = rng.choice(size, size=min(members + 6, size), replace=False) if members else []
    for rank, index in enumerate(chosen):
        scores.flat[index] = rng.choice([1, 1, -1]) * 2.4 / (1 + rank) ** 0.9
    inside = set(map(int, chosen[:members]))
    checked = set(np.argsort(-np.abs(scores), axis=None)[:30].tolist()) | inside
    heads = []
    for index in range(size):
        layer, head = divmod(index, n_heads)
        roles = dict(zip(ROLES, rng.beta(0.4, 2, 6).round(4).tolist(), strict=True))
        place = {"site": f"a{layer}.h{head}", "layer": layer, "head": head, "roles": roles}
        heads.append(place | _effect(float(scores.flat[index]), index in checked, index in inside))
    mlp_rows = []
    for layer in range(n_layers if mlps else 0):
        effect = _effect(float(rng.normal(0, 0.2) + 0.3), layer < mlp_members, layer < mlp_members)
        mlp_rows.append({"site": f"m{layer}", "layer": layer} | effect)
    tokens = _tokens(n_tokens, evil)
    parts = [part for part in (*heads, *mlp_rows) if part["in_circuit"]]
    for part in parts:
        part |= _details(evil, rng) if "head" in part else {}
    patterns = [_pattern(n_tokens, rng) for part in heads if part["in_circuit"]]
    settings = {"candidates": 30, "mlps": bool(mlp_members), "threshold": 0.02, "signed": True, "config": {}}
    how = {"task": task, "metric": "logit_diff", "counterfactual": "abc", "seed": seed, "n_pairs": n_pairs}
    notes = [EVIL] if evil else ["Names of several tokens are left out."]
    source = {"spec": model, "source": EVIL if evil else "Q4_1 GGUF", "revision": None}
    shape = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_heads, "attn_only": not mlps}
    sizes = {"d_model": 576, "d_head": 64, "d_vocab": 49152, "parallel_attn_mlp": False}
    kind = {"architecture": "LlamaForCausalLM", "dtype": "float32", "device": "cpu"}
    example = {
        "clean": tokens,
        "corrupt": ["<s>", *reversed(tokens[1:])],
        "answers": [EVIL if evil else " Mary"],
        "wrong_answers": [EVIL if evil else " John"],
        "positions": {"IO": 3, "S1": 5, "S2": 13, EVIL if evil else "END": n_tokens - 1},
        "metric": {"clean": 4.1, "corrupt": -0.4, "name": "logit_diff"},
    }
    result = {
        "model": EVIL if evil else model,
        "task": EVIL if evil else task,
        "method": method,
        "seed": seed,
        "n_pairs": n_pairs,
        "universe": "heads+mlps" if mlp_members else "heads",
        "metric": {"clean": 3.62, "corrupt": 0.21, "name": "logit_diff"},
        "seconds": {"load": 3.2, "sample": 0.02, "score": 11.4, "check": 84.0, "roles": 0.6, "edges": 9.0},
        "cost": {"score": 4.0 * n_pairs, "check": 31.2 * n_pairs},
        "heads": heads,
        "mlps": mlp_rows,
        "edges": _edges(parts, rng),
        "edges_are_counts": method == "overlap",
        "left_out": [],
        "proposed": None,
        "recovery": {},
        "settings": settings | {"codes": {"n_codes": 200}},
        "provenance": {
            "pairs": how | {"bos": True, "dropped": {"names": 3}, "notes": notes, "digest": "0" * 16},
            "model": source | shape | sizes | kind,
        },
        "versions": {"interp": "0.1.0", "torch": "2.13.0"},
        "request": {"seed": seed},
        "examples": [example],
    }
    arrays = {"heads": scores.astype(np.float32)}
    if patterns:
        arrays["patterns"] = np.stack(patterns).astype(np.float32)
    if per_pair:
        noise = rng.normal(0, 0.1, (n_pairs, n_layers, n_heads))
        arrays["heads_per_pair"] = (scores + noise - noise.mean(0)).astype(np.float32)
    run = Run.model_validate_json(json.dumps(result))
    run.arrays = arrays
    for name in references:
        recovery = recover(scores, load_reference(name).members(), None, arrays.get("heads_per_pair"), n_boot=50)
        run.recovery[name] = Judged(**vars(recovery), shared_pairs=None, measured_pairs=None, stricter={})
    return run


def make_card(*, evil: bool = False) -> Validity:
    """A card of a circuit of three heads, with two other tasks and two rivals."""
    share, gone = ({"value": value, "low": value - 0.05, "high": value + 0.05} for value in (0.91, 0.04))
    random = {"share_mean": 0.02, "share_largest": 0.07, "kl_mean": 2.5, "left_mean": 0.97, "left_least": 0.9}
    sizes = enumerate((0, 1, 3, 8, 16))
    circuit = {
        "n_heads": 3,
        "n_pairs": 20,
        "ablation": "resample",
        "share": share,
        "kl": 0.4,
        "left": gone,
        "cmd": 0.03,
        "cpr": 1.02,
        "nested": [{"n_heads": n, "share": k / 4, "share_signed": k / 3, "kl": 3.0 - k / 2} for k, n in sizes],
        "random": {"draws": 10} | random,
    }
    names = ("ioi", "docstring", EVIL if evil else "successor")
    tasks = [{"task": name, "n_pairs": 30, "lost": 0.4, "lost_random": 0.01} for name in names]
    rival = {"n_pairs": 40, "heads": ["a0.h1", "a2.h3"], "jaccard": 0.67}
    card = {
        "held_out": True,
        "circuit": circuit,
        "jaccard": {"value": 0.85, "low": 0.6, "high": 1.0},
        "tasks": tasks,
        "rivals": [rival | {"seed": seed, "share": share} for seed, share in ((1, 0.5), (2, 0.88))],
        "left_out": [EVIL if evil else "Tasks that this model does not do: capital."],
        "forwards": 4000.0,
        "seconds": 120.0,
    }
    return Validity.model_validate_json(json.dumps(card))


def published(task: str = "ioi", model: str = "gpt2") -> tuple[str, ...]:
    """Names of the references for a task on a model."""
    return tuple(reference.name for reference in reference_for(task, model))


def _effect(score: float, checked: bool, inside: bool) -> dict:
    effect = (0.9 if inside else 0.02) * score if checked else None
    low, high = (effect - 0.05, effect + 0.05) if checked else (None, None)
    return {"score": score, "effect": effect, "low": low, "high": high, "in_circuit": inside}


def _tokens(n: int, evil: bool) -> list[str]:
    words = ["<s>", *(f" {word}" for word in _STORY.split())]
    tokens = [words[i % len(words)] if i else "<s>" for i in range(n)]
    if evil:
        tokens[4:8] = ["<script>", EVIL, "\u202e\n", "{{ 7*7 }}</style>"]
    return tokens


def _edges(parts: list[dict], rng: np.random.Generator) -> list[dict]:
    edges = []
    for sender, receiver in itertools.product(parts, parts):
        if sender["layer"] < receiver["layer"]:
            for into in "qkv" if "head" in receiver else (None,):
                score = float(rng.laplace(0, 0.03) * (1 + 8 * (rng.random() < 0.1)))
                names = {"sender": sender["site"], "receiver": receiver["site"]}
                edges.append(names | {"into": into, "score": score})
    return sorted(edges, key=lambda edge: -abs(edge["score"]))


def _pattern(n: int, rng: np.random.Generator) -> np.ndarray:
    logits = np.where(np.tril(np.ones((n, n), bool)), rng.normal(0, 2.5, (n, n)), -np.inf)
    pattern = np.exp(logits - logits.max(1, keepdims=True))
    return pattern / pattern.sum(1, keepdims=True)


def _details(evil: bool, rng: np.random.Generator) -> dict:
    words = [EVIL if evil else " Mary", " John", "\n", " the", "'s", " Sarah", " a", " supercalifragilistic"]
    top = sorted(rng.gamma(2, 0.4, 8).tolist(), reverse=True)
    shares = [rng.dirichlet(np.ones(k)) for k in (5, 3)]
    codes = [rng.choice(200, k, replace=False) for k in (5, 3)]
    codes[1][:2] = codes[0][1:3]
    used = [
        sorted(zip(map(int, ids), map(float, share), strict=True), key=lambda pair: -pair[1])
        for ids, share in zip(codes, shares, strict=True)
    ]
    return {
        "direct": float(rng.normal(0, 0.5)),
        "writes": {
            "top": [[word, value] for word, value in zip(words, top, strict=True)],
            "bottom": [[word, -value] for word, value in zip(words, top, strict=True)],
        },
        "codes": dict(zip(("clean", "corrupt"), used, strict=True)),
    }


def make_bench(
    methods=("attribution", "adaptive-patching", "random"), *, model="smollm2-135m-instruct", tasks=("ioi",)
) -> dict:
    """A table of any methods; a method called random has no seconds, one called adaptive-patching lacks 100 pairs."""
    table, groups, comparisons = [], [], []
    for m, method in enumerate(("yardstick", *methods)):
        for n in (10, 100) if method != "adaptive-patching" else (10,):
            value, cost, each = 0.9 - 0.1 * m + n / 2000, 4.0 * n * m, {"method": method, "n": n}
            spread = {"mean": value, "least": value - 0.05, "largest": value + 0.02, "count": 3}
            numbers = dict.fromkeys(METRICS, spread) | {"edge_roc_auc": None, "f_50": None}
            numbers["forwards"] = {"mean": cost, "least": cost, "largest": cost, "count": 3}
            stable = {"jaccard_seeds": 0.8, "jaccard_bootstrap": None}
            for task in tasks:
                start = {"task": task, "model": model, "reference": f"{task}/{model}", "decides": True}
                table.append(start | each | {"seeds": 3} | numbers | stable)
            means = {key: value and value["mean"] for key, value in numbers.items()}
            groups.append({"group": model, "tasks": len(tasks), "of_tasks": len(tasks)} | each | means | stable)
            if method != "attribution":
                scope = {"scope": f"{tasks[0]} on {model}", "group": model, "against": "attribution"}
                for metric, low, high in (("roc_auc", 0.05, 0.2), ("cmd", None, None)):
                    recovery = {"metric": metric, "difference": 0.1, "low": low, "high": high}
                    comparisons.append(scope | each | recovery | {"seeds": 3, "tasks": 1})
    plan = {"tasks": list(tasks), "models": [model], "methods": list(methods), "pairs": [10, 100], "seeds": 3}
    return {
        "format": 1,
        "plan": plan | {"against": "attribution", "pool": 300, "held_out": 40, "reference": 200},
        "cells": [],
        "table": table,
        "groups": groups,
        "comparisons": comparisons,
        "skipped": [{"task": tasks[0], "model": model, "method": "acdc", "why": f"too dear {EVIL}"}],
        "versions": {"interp": "0", "torch": "1"},
    }
