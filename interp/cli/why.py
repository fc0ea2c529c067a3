"""``interp why``: which heads at which tokens make the difference between two prompts."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    DEFAULT_MODEL,
    Context,
    CounterfactualOption,
    CpusOption,
    DeviceOption,
    DtypeOption,
    GpusOption,
    ModelOption,
    OverwriteOption,
    PairsOption,
    SeedOption,
    WorkersOption,
    option,
    request_of_command,
    task_and_model,
    where_to_run,
)
from interp.cli.terminal import goes_on, suggest, words_of
from interp.errors import InputError

_OF_TASK = ("task", "n", "seed", "counterfactual")
"""Options that only pairs of a task have."""


def why(
    context: Context,
    a: Annotated[str | None, typer.Argument(metavar="[PROMPT_A]", help="a prompt")] = None,
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT_B…]",
            help="of equal length, or with the same end; of several the mean; without one some are proposed",
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option(metavar="TEXT", help="after A, such as ' Mary' (default: by KL)")
    ] = None,
    instead: Annotated[str | None, typer.Option(metavar="TEXT", help="after B, likewise")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="as messages in the model's chat template")] = False,
    proposed: Annotated[
        int, typer.Option(metavar="N", min=0, max=20, help="explain A against the N best proposals")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder for why.json, why.txt and pictures")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write the result here; - for stdout")
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="also write both prompts as a template file, for discover"),
    ] = None,
    task: Annotated[
        str | None, option("TASK", "instead of prompts: explain every pair of a task, or of a prompt file")
    ] = None,
    n: PairsOption = None,
    seed: SeedOption = 0,
    counterfactual: CounterfactualOption = None,
    overwrite: OverwriteOption = False,
    model: ModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    workers: WorkersOption = "serial",
    cpus_per_worker: CpusOption = 1,
    gpus_per_worker: GpusOption = 0,
) -> None:
    """Find the heads at tokens that make the model say one thing after A and another after B, by patching."""
    from interp import contrast
    from interp.files import check_file, check_folder, write_json, write_text
    from interp.models import load_model
    from interp.progress import bar

    placement, _ = where_to_run(workers, cpus_per_worker, gpus_per_worker, None, device)
    if a is None and task is None:
        raise InputError("give a prompt, two prompts, or --task TASK")
    of_task: dict[str, Any] = {"-n": n, "--seed": seed or None, "--counterfactual": counterfactual}
    of_task["--workers"] = None if placement.serial else workers
    of_prompts: dict[str, Any] = {
        "PROMPT_A": a,
        "--answer": answer,
        "--instead": instead,
        "--chat": chat or None,
    }
    of_prompts |= {"--proposed": proposed or None, "--out": out, "--template": template}
    needless, rule = (of_task, "needs --task TASK") if task is None else (of_prompts, "goes not with --task")
    for name, value in needless.items():
        if value is not None:
            raise InputError(f"{name} {value!s:.40} {rule}")
    spec = DEFAULT_MODEL if model is None else model
    if task is not None:
        spec = task_and_model(task, model, counterfactual)[1]
    request, to_stdout = request_of_command(context) | {"model": spec}, str(json_file) == "-"
    if task is None:  # as in results of before
        request = {name: value for name, value in request.items() if name not in _OF_TASK}
    if json_file is not None and not to_stdout:
        check_file(json_file, "--json", request=request, overwrite=overwrite)
    if task is not None:
        asked = dict(
            n=n, seed=seed, counterfactual=counterfactual, device=device, dtype=dtype, workers=placement
        )
        _explain_pairs(spec, task, asked, None if to_stdout else json_file, request, to_stdout=to_stdout)
        return
    assert a is not None  # looked at above
    if others and proposed:
        raise InputError(f"--proposed {proposed} needs no PROMPT_B: leave one of them out")
    if template is not None:
        if len(others or []) != 1:
            raise InputError("--template holds one pair: give one PROMPT_B")
        check_file(template, "--template", request=request, overwrite=overwrite)
    if out is not None:
        if len(others or []) != 1:
            raise InputError("--out holds one explanation: give one PROMPT_B, or write --json FILE")
        check_folder(out, "an explanation", contents=contrast.FILES)
        check_file(out / contrast.RESULT, "--out", request=request, overwrite=overwrite, within=out)
    loaded = load_model(spec, device=device, dtype=dtype)
    answers = {"answer": answer, "instead": instead}
    result: contrast.Why | contrast.Several | contrast.Proposals
    if others and len(others) == 1:
        result = contrast.why(loaded, a, others[0], **answers, chat=chat, stage=bar)
    else:
        prompts = others or []
        if not others:
            result = contrast.propose(loaded, a, chat=chat, most=proposed or 8)
            prompts = [proposal.prompt for proposal in result.proposals[:proposed]]
        if prompts:
            result = contrast.why_several(loaded, a, prompts, **answers, chat=chat, stage=bar)
    if out is not None and isinstance(result, contrast.Why):
        write_text(out / contrast.PAGE, contrast.page(result))
        write_text(out / contrast.PICTURE, contrast.svg(result))
        result.save(out, request)  # last, as it says that all is there
    if template is not None and isinstance(result, contrast.Why):
        write_json(template, contrast.template_of(loaded, result))
    if to_stdout:
        typer.echo(json.dumps(result.as_json(), allow_nan=False))
        return
    if json_file is not None:
        write_json(json_file, {"request": request, **result.as_json()})
    typer.echo(result.text())
    for path in filter(None, (out, json_file, template)):
        typer.echo(f"saved    {path}")
    options = words_of({"--model": None if spec == DEFAULT_MODEL else spec}) + ["--chat"] * chat
    if isinstance(result, contrast.Why):
        swapped = words_of({"--answer": instead, "--instead": answer})
        again = ["why", *options, *swapped, "--", result.b, a], "the other way about"
        of_template = (
            [(["discover", str(template)], "the circuit of such prompts")] if template is not None else []
        )
        suggest(*of_template, again)
    elif isinstance(result, contrast.Several):
        suggest((["why", *options, "--", a, result.explanations[0].b], "its nodes and arrows"))
    elif result.proposals:
        suggest(
            (["why", *options, "--", a, result.proposals[0].prompt], "explain the first"),
            (["why", *options, "--proposed", "3", "--", a], "explain three, and their mean"),
        )


def _explain_pairs(
    spec: str,
    task: str,
    asked: dict[str, Any],
    path: Path | None,
    request: dict[str, Any],
    *,
    to_stdout: bool,
) -> None:
    """All pairs of a task; beside the result's file lie those that are explained, until all are."""
    from interp.contrast import why_pairs
    from interp.files import write_json
    from interp.progress import bar

    if path is None:
        result = why_pairs(spec, task, **asked, stage=bar)
    else:
        partial = path.with_suffix(".partial")
        with goes_on(partial):
            result = why_pairs(spec, task, **asked, checkpoint=partial, stage=bar)
        write_json(path, {"request": request, **result.as_json()})
        shutil.rmtree(partial, ignore_errors=True)
    if to_stdout:
        typer.echo(json.dumps(result.as_json(), allow_nan=False))
        return
    typer.echo(result.text())
    if path is not None:
        typer.echo(f"saved    {path}")
    options = words_of({"--model": None if spec == DEFAULT_MODEL else spec})
    first = result.explanations[0]
    suggest(
        (["why", *options, "--", first.a, first.b], "nodes and arrows of the first"),
        (["discover", task, *options], "the circuit of such prompts"),
    )
