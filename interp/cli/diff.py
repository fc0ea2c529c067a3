"""``interp diff``: what a finetuned model does that its base did not."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options
from interp.cli.options import flag, option, seed_option, whole_option
from interp.cli.terminal import suggest
from interp.errors import InputError


def diff(
    context: options.Context,
    base: Annotated[str, typer.Argument(metavar="BASE", help="a model")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="the same, finetuned")],
    text: options.TextOption = "stdlib",
    tokens: Annotated[int, whole_option(help="tokens of text, at most")] = 50_000,
    null: Annotated[
        str | None, option("MODEL", "one finetuned on something else: what it changed as well does not count")
    ] = None,
    codebooks: Annotated[
        str | None, option("NAME", "of the base, several with commas (default: the package's, else some are fitted)")
    ] = None,
    prompt: Annotated[list[str] | None, option("TEXT", "continued by both models; may be given several times")] = None,
    patches: Annotated[bool, flag("--patches/--no-patches", "patch the worst contexts, and take codes back")] = True,
    block: Annotated[int | None, options.context_option(128)] = None,
    seed: Annotated[int, seed_option("the text")] = 0,
    out: Annotated[Path | None, option("FOLDER", "folder for diff.json and diff.txt")] = None,
    json_file: options.JsonOption = None,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
) -> None:
    """Say what changed between two models: contexts, heads and MLPs, and codes. (Of two runs: interp compare.)"""
    from interp import changes
    from interp.bottlenecks.store import Codebooks
    from interp.files import check_file, check_folder
    from interp.models import load_model
    from interp.progress import bar
    from interp.text import open_sources

    placement, _ = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, None, device)
    request = options.request_of_command(context)
    open_sources(text)  # a wrong name should not wait for the models
    if out is not None:
        check_folder(out, "a difference", contents=changes.FILES)
        check_file(out / changes.RESULT, "--out", request=request, overwrite=overwrite, within=out)
    options.check_json(json_file, request, overwrite=overwrite)
    if null is not None and null in (base, tuned):
        raise InputError(f"--null {null} is one of the two models: give a third one")
    for name in (codebooks or "").split(","):
        if name:  # a wrong one should not wait for the models
            Codebooks.from_pretrained(name)
    load = partial(load_model, device=device, dtype=dtype)
    first, second, third = load(base), load(tuned), None if null is None else load(null)
    result = changes.diff(
        first,
        second,
        text,
        null=third,
        codebooks=codebooks,
        n_tokens=tokens,
        context=block,
        prompts=prompt or [],
        patches=patches,
        seed=seed,
        workers=placement,
        stage=bar,
    )
    if out is not None:
        result.save(out, request)
    if options.write_result(json_file, request, result.as_json()):
        return
    typer.echo(result.as_text())
    for path in filter(None, (out, json_file)):
        typer.echo(f"saved    {path}")
    if not result.same and not prompt and result.words:
        words = ["diff", base, tuned, "--text", text, "--prompt", f"The {result.words[0].word}"]
        suggest((words, "and how both go on"))
