"""``interp export``: a run's circuit for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from interp.options import one_of
from interp.tasks.errors import InputError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to write (default: RUN-graph.json)")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            parser=one_of("eap-ig", "mib"),
            metavar="LAYOUT",
            help="eap-ig (what EAP-IG writes now) or mib (older, that of the circuits MIB ships)",
        ),
    ] = "eap-ig",
    helpful: Annotated[
        str,
        typer.Option(
            parser=one_of("positive", "negative"),
            metavar="SIGN",
            help="the sign of what helps: positive (EAP-IG's scripts) or negative (the circuits MIB ships)",
        ),
    ] = "positive",
) -> None:
    """Write a run's circuit as the graph JSON that EAP-IG and the MIB benchmark read.

    The format has an MLP in every layer; those of a model without MLPs are in it, and stand for nothing.
    """
    from interp.circuits.graph_json import write_graph
    from interp.files import check_file, unused
    from interp.runs import Run

    found = Run.load(run)
    folder = run.resolve() if run.name in ("", "..") else run  # "." has no name
    path = out or unused(folder.with_name(f"{folder.name}-graph.json"))
    check_file(path, "--out")
    shape = found.result["provenance"]["model"]
    if "parallel_attn_mlp" not in shape:
        raise InputError(
            f"{run} is of a version that did not keep whether attention and MLP stand side by side: run it again"
        )
    write_graph(
        found.circuit,
        path,
        d_model=shape["d_model"],
        parallel_attn_mlp=shape["parallel_attn_mlp"],
        layout=layout,
        helpful=helpful,
    )
    typer.echo(
        f"saved    {path}    # {len(found.members)} members, {len(found.result['edges'])} scored edges"
    )
