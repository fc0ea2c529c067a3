"""``interp why``: which heads at which tokens make the difference between two prompts."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.options import DEFAULT_MODEL, flag, option
from interp.cli.terminal import goes_on, suggest, words_of
from interp.errors import InputError

_OF_TASK = ("task", "n", "seed", "counterfactual")  # options that only pairs of a task have


def why(
    context: options.Context,
    a: Annotated[str | None, typer.Argument(metavar="[PROMPT_A]", help="a prompt")] = None,
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT_B…]",
            help="of equal length, or with the same end; of several the mean; without one some are proposed",
        ),
    ] = None,
    answer: Annotated[str | None, option("TEXT", "after A, such as ' Mary' (default: by KL)")] = None,
    instead: Annotated[str | None, option("TEXT", "after B, likewise")] = None,
    chat: Annotated[bool, flag("--chat", "as messages in the model's chat template")] = False,
    proposed: Annotated[int, option("N", "explain A against the N best proposals", min=0, max=20)] = 0,
    out: Annotated[Path | None, option("FOLDER", "folder for why.json, why.txt and pictures")] = None,
    json_file: options.JsonOption = None,
    template: Annotated[Path | None, option("FILE", "also write both prompts as a template file, for discover")] = None,
    task: Annotated[
        str | None, option("TASK", "instead of prompts: explain every pair of a task, or of a prompt file")
    ] = None,
    n: options.PairsOption = None,
    seed: options.SeedOption = 0,
    counterfactual: options.CounterfactualOption = None,
    overwrite: options.OverwriteOption = False,
    model: options.ModelOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
) -> None:
    """Find the heads at tokens that make the model say one thing after A and another after B, by patching."""
    from interp import contrast
    from interp.files import check_file, check_folder, write_json, write_text
    from interp.models import load_model
    from interp.progress import bar

    placement, _ = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, None, device)
    if a is None and task is None:
        raise InputError("give a prompt, two prompts, or --task TASK")
    of_task: dict[str, Any] = {"-n": n, "--seed": seed or None, "--counterfactual": counterfactual}
    of_task["--workers"] = None if placement.serial else workers
    of_prompts: dict[str, Any] = {"PROMPT_A": a, "--answer": answer, "--instead": instead}
    of_prompts |= {"--chat": chat or None, "--proposed": proposed or None, "--out": out, "--template": template}
    needless, rule = (of_task, "needs --task TASK") if task is None else (of_prompts, "goes not with --task")
    for name, value in needless.items():
        if value is not None:
            raise InputError(f"{name} {value!s:.40} {rule}")
    request = options.request_of_command(context)
    if task is not None:
        spec = options.task_and_model(task, model, counterfactual)[1]
        request |= {"model": spec}
        options.check_json(json_file, request, overwrite=overwrite)
        arguments = dict(n=n, seed=seed, counterfactual=counterfactual, device=device, dtype=dtype)
        _explain_pairs(spec, task, arguments | {"workers": placement}, json_file, request)
        return
    spec, prompts = model or DEFAULT_MODEL, others or []
    request = {name: value for name, value in request.items() if name not in _OF_TASK} | {"model": spec}
    options.check_json(json_file, request, overwrite=overwrite)
    assert a is not None  # looked at above
    if prompts and proposed:
        raise InputError(f"--proposed {proposed} needs no PROMPT_B: leave one of them out")
    if template is not None:
        if len(prompts) != 1:
            raise InputError("--template holds one pair: give one PROMPT_B")
        check_file(template, "--template", request=request, overwrite=overwrite)
    if out is not None:
        if len(prompts) != 1:
            raise InputError("--out holds one explanation: give one PROMPT_B, or write --json FILE")
        check_folder(out, "an explanation", contents=contrast.FILES)
        check_file(out / contrast.RESULT, "--out", request=request, overwrite=overwrite, within=out)
    loaded = load_model(spec, device=device, dtype=dtype)
    answers = {"answer": answer, "instead": instead}
    result: contrast.Why | contrast.Several | contrast.Proposals
    if len(prompts) == 1:
        result = contrast.why(loaded, a, prompts[0], **answers, chat=chat, stage=bar)
    else:
        if not prompts:
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
    if options.write_result(json_file, request, result.as_json()):
        return
    typer.echo(result.text())
    for path in filter(None, (out, json_file, template)):
        typer.echo(f"saved    {path}")
    same_model = words_of({"--model": None if spec == DEFAULT_MODEL else spec}) + ["--chat"] * chat
    if isinstance(result, contrast.Why):
        swapped = words_of({"--answer": instead, "--instead": answer})
        swap = ["why", *same_model, *swapped, "--", result.b, a], "the other way about"
        if template is not None:
            suggest((["discover", str(template)], "the circuit of such prompts"), swap)
        else:
            suggest(swap)
    elif isinstance(result, contrast.Several):
        suggest((["why", *same_model, "--", a, result.explanations[0].b], "its nodes and arrows"))
    elif result.proposals:
        suggest(
            (["why", *same_model, "--", a, result.proposals[0].prompt], "explain the first"),
            (["why", *same_model, "--proposed", "3", "--", a], "explain three, and their mean"),
        )


def _explain_pairs(
    spec: str, task: str, arguments: dict[str, Any], json_file: Path | None, request: dict[str, Any]
) -> None:
    """All pairs of a task; beside the result's file lie those that are explained, until all are."""
    from interp.contrast import why_pairs
    from interp.progress import bar

    if json_file is None or str(json_file) == "-":
        result = why_pairs(spec, task, **arguments, stage=bar)
        if options.write_result(json_file, request, result.as_json()):
            return
    else:
        partial = json_file.with_suffix(".partial")
        with goes_on(partial):
            result = why_pairs(spec, task, **arguments, checkpoint=partial, stage=bar)
        options.write_result(json_file, request, result.as_json())
        shutil.rmtree(partial, ignore_errors=True)
    typer.echo(result.text())
    if json_file is not None:
        typer.echo(f"saved    {json_file}")
    same_model = words_of({"--model": None if spec == DEFAULT_MODEL else spec})
    first = result.explanations[0]
    suggest(
        (["why", *same_model, "--", first.a, first.b], "nodes and arrows of the first"),
        (["discover", task, *same_model], "the circuit of such prompts"),
    )
