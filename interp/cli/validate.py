"""``interp validate``: what a sceptic asks of a run's circuit."""

from pathlib import Path
from typing import Annotated

import typer

from interp import MIN_PAIRS
from interp.cli.options import pairs_option, whole_option
from interp.cli.terminal import plain_console, suggest
from interp.errors import InputError


def validate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    n: Annotated[
        int | None,
        pairs_option(MIN_PAIRS, help="judging pairs (default: as many as the run has, at most 100)"),
    ] = None,
    seeds: Annotated[
        int, whole_option("--seeds", least=0, most=1000, help="how often the search is made on other pairs")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="print the card as JSON")] = False,
) -> None:
    """Ask of a run's circuit what a sceptic would, and keep the answers with the run.

    Is it faithful, complete, stable, specific to its task, and the only one? Random circuits stand beside it.
    """
    from rich.table import Table

    from interp.cli.app import workbench_of
    from interp.files import check_writable, request_of
    from interp.progress import bar
    from interp.report.page import write_report
    from interp.report.validity import COLUMNS, card_rows, card_summary
    from interp.runs.folder import REPORT, RESULT, VALIDITY
    from interp.runs.run import Run
    from interp.runs.validate import validate as validated

    found, before = Run.load(run), request_of(run / RESULT)
    check_writable(run / VALIDITY, "RUN")
    card = found.validity = validated(found, folder=run, n=n, seeds=seeds, stage=bar)
    if request_of(run / RESULT) != before:
        raise InputError(f"RUN {run}: another run lies there by now, so its card is not kept")
    path = found.save_validity(run)
    report = write_report(run) if (run / REPORT).is_file() else None
    if as_json:
        typer.echo(card.model_dump_json())
        return
    console, table = plain_console(), Table(*COLUMNS, box=None)
    for row in card_rows(card):
        table.add_row(*row)
    console.print(card_summary(card))
    console.print(table)
    for why in card.left_out:
        console.print(why)
    console.print(f"\nsaved    {path}", soft_wrap=True)
    if report is not None:
        console.print(f"report   {report}", soft_wrap=True)
    suggest((workbench_of(run), "the same in the browser, on the page Circuit"))
