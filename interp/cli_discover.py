"""``interp discover``: from a task's name to a run with its report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from interp.defaults import CANDIDATES, THRESHOLD
from interp.options import (
    BosOption,
    CounterfactualOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    PairsOption,
    SeedOption,
    default_folder,
    key_values,
    share,
    source_file,
    whole_option,
)
from interp.tasks.errors import InputError


def discover(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="ioi, greater-than, docstring, a prompt file, module:Class")
    ],
    model: ModelOption = None,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="codes, attribution, overlap, patching, … (interp methods)")
    ] = "codes",
    n: PairsOption = None,
    seed: SeedOption = 0,
    counterfactual: CounterfactualOption = None,
    candidates: Annotated[
        int, whole_option("--candidates", least=1, help="best-scored components checked by exact interchange")
    ] = CANDIDATES,
    threshold: Annotated[
        float,
        typer.Option(
            parser=share, metavar="SHARE", help="share of the clean–corrupt gap that makes a member"
        ),
    ] = THRESHOLD,
    mlps: Annotated[bool, typer.Option("--mlps", help="let MLPs be members too")] = False,
    bos: BosOption = True,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="judge the scores by this file from interp reference, too"),
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="a method's option (interp methods METHOD has them); repeatable",
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="run folder (default: runs/TASK-METHOD; -2, -3, … beside runs of other prompts)",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write the result here; - for stdout")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: Annotated[
        int | None,
        whole_option(
            "--batch-size", least=1, help="pairs per forward pass (default: the method's, mostly 16)"
        ),
    ] = None,
) -> None:
    """Find the circuit that does TASK, check it by exact interchange, and write a run with its report."""
    from interp.discovery import default_model
    from interp.files import check_file, write_json
    from interp.progress import bar
    from interp.runs import RESULT, apart, check_destination
    from interp.tasks import PromptFile, load_task

    options = key_values(set_)
    _check_given_once(
        options,
        {
            "threshold": (threshold, THRESHOLD),
            "batch_size": (batch_size, None),
            "mlps": (mlps, False),
        },
    )
    wanted, to_stdout = load_task(task), str(json_file) == "-"
    spec = default_model(wanted) if model is None else model
    asked = {
        "task": wanted.name,
        "task_class": None if task == wanted.name or isinstance(wanted, PromptFile) else task,
        "model": spec,
        "seed": seed,
        "mlps": mlps,
        "counterfactual": counterfactual or wanted.counterfactuals[0],
        "bos": bos,
    } | ({} if n is None else {"n_pairs": n})
    folder = out or apart(default_folder(wanted.name, model, method), asked)
    check_destination(folder)
    if json_file is not None and not to_stdout:
        check_file(json_file, "--json", read=(source_file(task), reference, model))
        if json_file.absolute().is_relative_to(folder.absolute()):
            raise InputError(
                f"--json {json_file}: it would lie in the run's folder, which holds run.json anyway"
            )

    from interp.circuits.measured import MeasuredReference
    from interp.console import print_members, print_next
    from interp.discovery import check_settings
    from interp.discovery import discover as find
    from interp.models import load_model, parse_device, parse_dtype
    from interp.report import render_report
    from interp.scores import method_config, with_mlps

    common = {"threshold": threshold, "seed": seed} | (
        {} if batch_size is None else {"batch_size": batch_size}
    )
    config = method_config(method, wanted.name, options, **common)
    config = with_mlps(method, config) if mlps else config
    settings = {
        "seed": seed,
        "counterfactual": counterfactual,
        "n_candidates": candidates,
        # which --set may have changed
        "threshold": getattr(config, "threshold", threshold),
        "batch_size": config.batch_size,
    }
    check_settings(wanted, n=wanted.default_n if n is None else n, **settings)
    if reference is not None:
        MeasuredReference.load(reference)  # a wrong file should not wait for the model
    parse_device(device), parse_dtype(dtype)
    loaded = load_model(spec, device=device, dtype=dtype)
    found = find(
        task,
        model=loaded,
        method=method,
        config=config,
        n=n,
        mlps=mlps,
        bos=bos,
        reference=reference,
        stage=bar,
        **settings,
    )
    replaced = (folder / RESULT).is_file()
    found.save(folder, report=render_report(found))
    if to_stdout:
        typer.echo(json.dumps(found.result, allow_nan=False))
        return
    if json_file is not None:
        write_json(json_file, found.result)
    print_members(found)
    other = "overlap" if method != "overlap" and not mlps else "attribution"
    if other == method:
        other = "nap-ig"
    given = {
        "--model": model,
        "--n": n,
        "--seed": seed or None,
        "--counterfactual": counterfactual,
        "--candidates": None if candidates == CANDIDATES else candidates,
        "--threshold": None if settings["threshold"] == THRESHOLD else settings["threshold"],
        "--reference": reference,
        "--device": device,
        "--dtype": None if dtype == "float32" else dtype,
    }
    prompts = ("--model", "--n", "--seed", "--counterfactual", "--device", "--dtype")
    shown = [str(word) for key in prompts if given[key] is not None for word in (key, given[key])]
    same = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    same += ["--mlps"] * mlps + ["--no-bos"] * (not bos)
    other_folder = apart(default_folder(wanted.name, model, other), asked)
    print_next(folder, task, same, shown, other, other_folder, replaced=replaced)


def _check_given_once(options: Mapping[str, str], others: Mapping[str, tuple[object, object]]) -> None:
    """Refuse what ``--set`` and an option of its own say differently.

    Args:
        others: by key of ``--set``, what the option says, and what it says where it was not given.
    """
    for key, (value, usual) in others.items():
        if key in options and value != usual and options[key].lower() != str(value).lower():
            option = f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise InputError(f"--set {key}={options[key]} and {option}: give one of them")
