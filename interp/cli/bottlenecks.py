"""``interp bottlenecks``: the kinds there are."""

from dataclasses import fields

import typer

from interp.cli.terminal import suggest

SIZE = ("d_in", "groups", "seed")
"""What of a kind's config the site and the command say."""


def bottlenecks() -> None:
    """List the kinds of bottlenecks: what a code is, what it is for, who published it."""
    from interp.bottlenecks.base import SHIPPED, bottleneck_class

    for name in SHIPPED:
        cls = bottleneck_class(name)
        meaning = (cls.__doc__ or "").partition("\n")[0].rstrip(".")
        typer.echo(f"{name.replace('_', '-'):21}{meaning}\n{'':21}for {cls.use} ({cls.source})")
        options = [field.name for field in fields(cls.config_class) if field.name not in SIZE]
        typer.echo(f"{'':21}options: {', '.join(options)}")
    suggest((["codebook", "fit", "--kind", "residual-vq", "--bits", "36"], "fit one at all heads"))
