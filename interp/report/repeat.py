"""What a run cost, how to repeat it, and what a reader must know before believing it."""

import shlex
from dataclasses import asdict
from pathlib import Path

from interp.runs.run import Run
from interp.scores.registry import METHODS, method_config

STAGES = {
    "load": "load the model",
    "sample": "sample pairs",
    "score": "score every head",
    "check": "activation patching of candidates",
    "roles": "head roles",
    "codes": "read codes",
    "edges": "score edges",
}


def command_line(run: Run, task: str | None = None, reference: str | None = None, n: int | None = None) -> str:
    """The command that repeats the run, on ``n`` pairs if given. ``task``: what is written for it where what the run
    was asked for is not enough: where a file of prompts lies. ``reference``: the same of a reference of one's own.
    """
    settings, pairs = run.settings, run.provenance.pairs
    words: list[object] = ["interp", "discover", task or _task(run), "--model", run.model or "MODEL"]
    words += ["--method", run.method, "--n", n or run.n_pairs, "--seed", run.seed]
    words += ["--counterfactual", pairs.counterfactual]
    words += ["--candidates", settings.candidates, "--threshold", settings.threshold]
    words += ["--reference", reference or settings.reference] if settings.reference else []
    words += ["--mlps"] * (run.universe == "heads+mlps") + ["--no-bos"] * (not pairs.bos)
    words += ["--no-program"] * (run.program is None)
    for key, value in _loaded_as(run).items():
        words += [f"--{key}", value]
    for key, value in _changed_options(run).items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(str(word) for word in words)


def python_lines(run: Run, task: str | None = None, reference: str | None = None) -> str:
    """The same from Python."""
    settings, pairs = run.settings, run.provenance.pairs
    task = task or _task(run)
    loaded = "".join(f", {key}={value!r}" for key, value in _loaded_as(run).items())
    arguments = {
        "method": run.method,
        "n": run.n_pairs,
        "seed": run.seed,
        "counterfactual": pairs.counterfactual,
        "candidates": settings.candidates,
        "threshold": settings.threshold,
        "mlps": run.universe == "heads+mlps" or None,
        "bos": None if pairs.bos else False,
        "program": run.program is not None or None,
        "reference": settings.reference and (reference or settings.reference),
    }
    lines = "".join(f"    {key}={value!r},\n" for key, value in arguments.items() if value is not None)
    if options := _changed_options(run):
        lines += f"    config={options!r},\n"
    imports, model = "find_circuit", repr(run.model)
    if loaded:
        imports, model = "find_circuit, load_model", f"load_model({model}{loaded})"
    call = f"run = find_circuit(\n    {model},\n    {task!r},\n{lines})"
    return f'from interp import {imports}\n\n{call}\nrun.save("run")\n'


def warnings(run: Run) -> list[str]:
    """What limits the findings, the general last."""
    pairs = run.provenance.pairs
    dropped = [f"{count} {kind}" for kind, count in pairs.dropped.items() if count]
    limits = [f"Dropped because of this model’s tokenizer: {words}." for words in dropped]
    limits += [*pairs.notes, *run.left_out]
    if not run.mlps:
        limits.append("MLPs were not scored.")
    elif run.universe == "heads":
        limits.append("Only heads could become members; MLPs stay live, and what they do is part of every effect.")
    checked = len(run.checked)
    if checked < len(run.ranked):
        limits.append(
            f"Only the {checked} components with the best scores were checked: another one cannot be a member, "
            "whether its score is right or not."
        )
    limits.append(
        "One component at a time is replaced. Where others step in for the one that is missing (backup "
        "heads), its effect is understated, so effects do not add up to the gap."
    )
    limits.append(
        "Membership and effects are measured on the same pairs that ranked the components; intervals cover "
        "the draw of pairs and nothing else."
    )
    return limits


def _loaded_as(run: Run) -> dict[str, str]:
    """Dtype and device of the model where they are not what loading it gives on any machine."""
    model = run.provenance.model
    usual = {"dtype": "float32", "device": "cpu"}
    return {key: getattr(model, key) for key, value in usual.items() if getattr(model, key) != value}


def _changed_options(run: Run) -> dict:
    """The method's options that are not what it has for the task; a checkpoint's place is no part of the result."""
    usual = asdict(method_config(run.method, run.task, {})) if run.method in METHODS else {}
    usual |= {"seed": run.seed, "threshold": run.settings.threshold}
    return {
        key: value
        for key, value in run.settings.config.items()
        if key not in ("batch_size", "checkpoint", "mlps", "threshold")
        and value is not None
        and usual.get(key) != value
    }


def next_commands(run: Run, task: str | None = None, reference: str | None = None) -> list[tuple[str, str]]:
    """What a reader may want next, each with its command; arguments as of :func:`command_line`."""
    model = run.model or "MODEL"
    loaded = [word for key, value in _loaded_as(run).items() for word in (f"--{key}", value)]
    grow = ["interp", "grow", task or _task(run), "--model", model, "--seed", run.seed]
    grow += ["--counterfactual", run.provenance.pairs.counterfactual, *loaded]
    more = command_line(run, task, reference, n=4 * run.n_pairs)
    validate = [] if run.validity else [("What a sceptic asks of this circuit", "interp validate RUN")]
    return [
        *validate,
        ("Four times the pairs, which halves the intervals", more),
        ("Which heads do the task alone, with all others off", shlex.join(map(str, grow))),
        ("Heads, codes and prompts in the workbench", shlex.join(["interp", "app", "--model", model])),
    ]


def reference_command(run: Run, task: str | None = None) -> str:
    """The command that measures what this run could be judged against; ``task`` as of :func:`command_line`."""
    words = ["interp", "reference", task or _task(run), "--model", run.model or "MODEL"]
    if task is not None:  # every run calls its own prompts the same
        words += ["--out", f"references/measured-{Path(task).parent.name}.safetensors"]
    else:
        words += ["--counterfactual", run.provenance.pairs.counterfactual]
    words += ["--no-bos"] * (not run.provenance.pairs.bos)
    return shlex.join(words)


def facts(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Versions, settings and provenance as tables of key and value; nested values are written ``a.b``."""
    tables = {"Versions": run.versions, "Settings": run.settings.model_dump()}
    tables |= {f"Provenance: {key}": value for key, value in run.provenance.model_dump().items()}
    return [(name, _flat(value)) for name, value in tables.items()]


def _flat(value: dict, prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows += _flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(item)))
    return rows


def _task(run: Run) -> str:
    """What was asked for: a class of one's own is not known by its name."""
    return run.settings.task_class or run.task
