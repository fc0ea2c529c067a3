"""``interp bottlenecks``: the kinds there are, and how they compare."""

import typer

from interp.cli.terminal import plain_console, suggest

bottlenecks_app = typer.Typer(
    add_completion=False,
    help="Kinds of bottlenecks: what there is, and what a bit buys.",
    invoke_without_command=True,
)


@bottlenecks_app.callback()
def kinds(context: typer.Context) -> None:
    """List the kinds: what a code is, who published it, what it is for."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from interp.bottlenecks.base import SHIPPED, bottleneck_class

    table = Table("kind", "what a code is", "published by", "use it for", box=None, pad_edge=False)
    for name in SHIPPED:
        cls = bottleneck_class(name)
        table.add_row(
            name.replace("_", "-"), (cls.__doc__ or "").partition("\n")[0].rstrip("."), cls.source, cls.use
        )
    plain_console().print(table)
    suggest((["codebook", "fit", "--kind", "residual-vq", "--bits", "36"], "fit one at all heads"))
