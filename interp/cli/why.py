"""``interp why``: which heads at which tokens make the difference between two prompts."""

import json
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import (
    DEFAULT_MODEL,
    Context,
    DeviceOption,
    DtypeOption,
    OverwriteOption,
    SomeModelOption,
    request_of_command,
)
from interp.cli.terminal import suggest, words_of


def why(
    context: Context,
    a: Annotated[str, typer.Argument(metavar="PROMPT_A", help="a prompt")],
    b: Annotated[str, typer.Argument(metavar="PROMPT_B", help="of equal length, or with the same end")],
    answer: Annotated[
        str | None, typer.Option(metavar="TEXT", help="after A, such as ' Mary' (default: by KL)")
    ] = None,
    instead: Annotated[str | None, typer.Option(metavar="TEXT", help="after B, likewise")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder for why.json and why.txt")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write the result here; - for stdout")
    ] = None,
    overwrite: OverwriteOption = False,
    model: SomeModelOption = DEFAULT_MODEL,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
) -> None:
    """Find the heads at tokens that make the model say one thing after A and another after B, by patching."""
    from interp import contrast
    from interp.files import check_file, check_folder, write_json
    from interp.models import load_model, parse_device
    from interp.progress import bar

    parse_device(device)
    request, to_stdout = request_of_command(context), str(json_file) == "-"
    if out is not None:
        check_folder(out, "an explanation", contents=("why.json", "why.txt"))
        check_file(out / "why.json", "--out", request=request, overwrite=overwrite, within=out)
    if json_file is not None and not to_stdout:
        check_file(json_file, "--json", request=request, overwrite=overwrite)
    loaded = load_model(model, device=device, dtype=dtype)
    explanation = contrast.why(loaded, a, b, answer=answer, instead=instead, stage=bar)
    if out is not None:
        explanation.save(out, request)
    if to_stdout:
        typer.echo(json.dumps(explanation.as_json(), allow_nan=False))
        return
    if json_file is not None:
        write_json(json_file, {"request": request, **explanation.as_json()})
    typer.echo(explanation.text())
    for path in filter(None, (out, json_file)):
        typer.echo(f"saved    {path}")
    other = {"--model": None if model == DEFAULT_MODEL else model, "--answer": instead, "--instead": answer}
    suggest((["why", *words_of(other), "--", b, a], "the other way about"))
