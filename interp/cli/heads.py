"""``interp heads``: what every head does on ordinary text."""

from typing import Annotated, Literal

import typer

from interp import DEFAULT_CODEBOOKS
from interp.cli import options
from interp.cli.options import option, whole_option
from interp.cli.terminal import plain_console, suggest, table
from interp.errors import InputError

SORTS = {
    "layer": lambda _: 0,
    "looks": lambda head: -head.looks[0][1],
    "f1": lambda head: -head.f1,
    "circuits": lambda head: -len(head.circuits),
}


def heads(
    context: options.Context,
    source: Annotated[
        str, typer.Argument(metavar="[INDEX|CODEBOOKS]", help="a labelled code index, or codebooks with labels")
    ] = DEFAULT_CODEBOOKS,
    head: Annotated[str | None, option("HEAD", "one head in full, such as a20.h0")] = None,
    sort: Annotated[
        Literal["layer", "looks", "f1", "circuits"], option("KEY", "layer, looks (how steadily), f1 or circuits")
    ] = "layer",
    n: Annotated[int, whole_option("--n", "-n", help="heads that are listed")] = 30,
    json_file: options.JsonOption = None,
    overwrite: options.OverwriteOption = False,
) -> None:
    """List where each head looks on ordinary text, what its codes say, and in which circuits it is."""
    from dataclasses import asdict

    from interp.bottlenecks.store import Codebooks
    from interp.codesearch import CodeIndex, labels_of, summarise_heads
    from interp.codesearch.index import NoIndexError
    from interp.report.wording import percent, visible

    request = options.request_of_command(context)
    options.check_json(json_file, request, overwrite=overwrite)
    opened: CodeIndex | Codebooks
    try:
        opened = CodeIndex.open(source)
    except NoIndexError:
        opened = Codebooks.from_pretrained(source)
    if (labels := labels_of(opened)) is None:
        raise InputError(f"{source} has no labels: build an index and run interp index label on it")
    summaries = summarise_heads(labels, opened.manifest["model"]["spec"])
    if head is not None:
        names = [summary.head for summary in summaries]
        if head not in names:
            raise InputError(f"--head {head}: there are {names[0]} to {names[-1]}")
        summaries = [summaries[names.index(head)]]
    shown = sorted(summaries, key=SORTS[sort])[:n]
    result = {"request": request, "heads": [asdict(summary) for summary in summaries]}
    if options.write_result(json_file, request, result):
        return
    console = plain_console()

    def listed(parts: list[tuple[str, float]], most: int | None = None) -> str:
        return ", ".join(f"{visible(text, keep=' ')} {percent(share)}" for text, share in parts[:most])

    if head is not None:
        summary = shown[0]
        console.print(f"{summary.head} on ordinary text")
        for title, line in {
            "looks at": listed(summary.looks),
            "its codes": f"{listed(summary.names[: 0 if summary.codes else None])}"
            f"{'' if summary.codes else '; '}{percent(summary.named)} of tokens have a code with a name",
            "circuits": listed(summary.circuits) or "none of the measured ones",
        }.items():
            console.print(f"{title:<10}{line}", soft_wrap=True, markup=False)
        if summary.kl_without is not None:
            console.print(
                f"without   the next token changes by {summary.kl_without:.4f} nats; its rule and codes in its place "
                f"{summary.kl_described:.4f}",
                soft_wrap=True,
            )
        for code in summary.codes:
            writes = f" · {visible(code.writes, keep=' ')}" if code.writes else ""
            line = f"{code.code:<16}{percent(code.share):>7}  F1 {code.f1:.2f}  {visible(code.text, keep=' ')}{writes}"
            console.print(line, soft_wrap=True, markup=False)
    else:
        rows = []
        for summary in shown:
            looks, name, circuits = (listed(summary.looks, 2), listed(summary.names, 1), listed(summary.circuits, 2))
            rows.append((summary.head, looks, name, f"{summary.f1:.2f}", circuits))
        columns = ("head", "looks at, share of tokens", "commonest name", "F1", "in the circuit of")
        console.print(table(columns, rows, left=(columns[0], columns[1], columns[2], columns[4])))
        if len(summaries) > len(shown):
            console.print(f"{len(shown)} of {len(summaries)} heads; -n {len(summaries)} lists all")
        words = ["heads", *([] if source == DEFAULT_CODEBOOKS else [source]), "--head", shown[0].head]
        suggest((words, "one head in full"))
