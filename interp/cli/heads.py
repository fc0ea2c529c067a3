"""``interp heads``: what every head does on ordinary text."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.options import Context, OverwriteOption, request_of_command, whole_option
from interp.cli.terminal import plain_console, suggest, table
from interp.errors import InputError

DEFAULT = "smollm2-135m-instruct-k1"
SORTS = {
    "layer": lambda _: 0,
    "looks": lambda head: -head.looks[0][1],
    "f1": lambda head: -head.f1,
    "circuits": lambda head: -len(head.circuits),
}


def heads(
    context: Context,
    source: Annotated[
        str,
        typer.Argument(metavar="[INDEX|CODEBOOKS]", help="a labelled code index, or codebooks with labels"),
    ] = DEFAULT,
    head: Annotated[str | None, typer.Option(metavar="HEAD", help="one head in full, such as a20.h0")] = None,
    sort: Annotated[
        Literal["layer", "looks", "f1", "circuits"],
        typer.Option(metavar="KEY", help="layer, looks (how steadily), f1 or circuits"),
    ] = "layer",
    n: Annotated[int, whole_option("--n", "-n", help="heads that are listed")] = 30,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write all heads here; - for stdout")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """List where each head looks on ordinary text, what its codes say, and in which circuits it is."""
    import json

    from interp.bottlenecks.store import Codebooks
    from interp.codesearch import CodeIndex, labels_of, summarise_heads
    from interp.codesearch.layout import MANIFEST
    from interp.files import check_file, read_json, write_json
    from interp.report.wording import percent, visible

    request, to_stdout = request_of_command(context), str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_file(json_file, "--json", request=request, overwrite=overwrite)
    folder = Path(source)
    indexed = (folder / MANIFEST).is_file() and "layout" in read_json(folder / MANIFEST)
    opened = CodeIndex.open(folder) if indexed else Codebooks.from_pretrained(source)
    if (labels := labels_of(opened)) is None:
        raise InputError(f"{source} has no labels: build an index and run interp index label on it")
    every = summarise_heads(labels, opened.manifest["model"]["spec"])
    if head is not None:
        known = {one.head: one for one in every}
        if head not in known:
            raise InputError(f"--head {head}: there are {every[0].head} to {every[-1].head}")
        every = [known[head]]
    shown = sorted(every, key=SORTS[sort])[:n]
    result = {"request": request, "heads": [one.as_json() for one in every]}
    if to_stdout:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    if json_file is not None:
        write_json(json_file, result)
    console = plain_console()

    def listed(parts: list[tuple[str, float]], most: int) -> str:
        return ", ".join(f"{visible(text, keep=' ')} {percent(share)}" for text, share in parts[:most])

    if head is not None:
        (one,) = shown
        console.print(f"{one.head} on ordinary text")
        for title, line in {
            "looks at": listed(one.looks, len(one.looks)),
            "its codes": f"{listed(one.names, len(one.names))}; {percent(one.named)} of tokens have a named code",
            "circuits": listed(one.circuits, len(one.circuits)) or "none of the measured ones",
        }.items():
            console.print(f"{title:<10}{line}", soft_wrap=True, markup=False)
    else:
        rows = [
            (one.head, listed(one.looks, 2), listed(one.names, 1), f"{one.f1:.2f}", listed(one.circuits, 2))
            for one in shown
        ]
        columns = ("head", "looks at, share of tokens", "commonest name", "F1", "in the circuit of")
        console.print(table(columns, rows, left=(columns[0], columns[1], columns[2], columns[4])))
        if len(every) > len(shown):
            console.print(f"{len(shown)} of {len(every)} heads; -n {len(every)} lists all")
        words = ["heads", *([] if source == DEFAULT else [source]), "--head", shown[0].head]
        suggest((words, "one head in full"))
