"""``interp why``: which heads at which tokens make the difference between two prompts."""

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
    seed_option,
)
from interp.cli.terminal import suggest, words_of
from interp.errors import InputError

FILE = "why.json"


def why(
    context: Context,
    a: Annotated[str, typer.Argument(metavar="PROMPT_A", help="a prompt")],
    b: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT_B", help="the same with a word exchanged; of other length, with the same end"
        ),
    ],
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="what A says, with its space: ' Mary' (default: by the largest term of KL)"
        ),
    ] = None,
    instead: Annotated[
        str | None, typer.Option(metavar="TEXT", help="what B says (default: likewise)")
    ] = None,
    seed: Annotated[int, seed_option("random nodes and senders")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help=f"folder for {FILE} and the text, why.txt")
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
    import json

    from interp.files import check_file, check_folder, write_json, write_text
    from interp.models import load_model, parse_device
    from interp.progress import bar

    parse_device(device)
    request, to_stdout = request_of_command(context), str(json_file) == "-"
    if out is not None:
        check_folder(out, "an explanation", contents={FILE, "why.txt"})
        check_file(out / FILE, "--out", request=request, overwrite=overwrite, within=out)
    if json_file is not None and not to_stdout:
        check_file(json_file, "--json", request=request, overwrite=overwrite)
        if out is not None and json_file.absolute().is_relative_to(out.absolute()):
            raise InputError(
                f"--json {json_file}: it would lie in the folder of --out, which holds {FILE} anyway"
            )

    from interp.contrast import why as explain

    found = explain(
        load_model(model, device=device, dtype=dtype),
        a,
        b,
        answer=answer,
        instead=instead,
        seed=seed,
        stage=bar,
    )
    told = {"request": request, **found.as_json()}
    if out is not None:
        write_text(out / "why.txt", found.text() + "\n")
        write_json(out / FILE, told)
    if to_stdout:
        typer.echo(json.dumps(found.as_json(), allow_nan=False))
        return
    if json_file is not None:
        write_json(json_file, told)
    typer.echo(found.text())
    for path in filter(None, (out, json_file)):
        typer.echo(f"saved    {path}")
    options = {"--model": None if model == DEFAULT_MODEL else model, "--answer": instead, "--instead": answer}
    suggest((["why", b, a, *words_of(options)], "the other way about"))
