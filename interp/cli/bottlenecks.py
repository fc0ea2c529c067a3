"""``interp bottlenecks``: the kinds there are, and what a bit buys."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.app import workbench_of
from interp.cli.options import (
    DEFAULT_MODEL,
    MOST_SEED,
    Context,
    DeviceOption,
    OverwriteOption,
    SomeModelOption,
    TextOption,
    names,
    numbers,
    whole_option,
)
from interp.cli.terminal import goes_on, suggest

bottlenecks_app = typer.Typer(
    add_completion=False,
    help="Kinds of bottlenecks: what there is, and what a bit buys.",
    invoke_without_command=True,
)

SIZE = ("d_in", "groups", "seed")
"""What of a kind's config the site and the command say."""


@bottlenecks_app.callback()
def kinds(context: Context) -> None:
    """List the kinds: what a code is, what it is for, who published it."""
    if context.invoked_subcommand is not None:
        return
    from interp.bottlenecks.base import SHIPPED, bottleneck_class

    for name in SHIPPED:
        cls = bottleneck_class(name)
        what = (cls.__doc__ or "").partition("\n")[0].rstrip(".")
        typer.echo(f"{name.replace('_', '-'):21}{what}\n{'':21}for {cls.use} ({cls.source})")
        options = [field.name for field in fields(cls.config_class) if field.name not in SIZE]
        typer.echo(f"{'':21}options: {', '.join(options)}")
    suggest((["codebook", "fit", "--kind", "residual-vq", "--bits", "36"], "fit one at all heads"))


@bottlenecks_app.command()
def bench(
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS", help="separated by commas; or file.py:Class (default: all, and baselines)"
        ),
    ] = None,
    bits: Annotated[
        str, typer.Option(metavar="NUMBERS", help="of a vector, about; separated by commas")
    ] = "4,9,18,36,72",
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="SITES", help="single heads and MLPs (default: twelve heads and three MLPs of SmolLM2)"
        ),
    ] = None,
    model: SomeModelOption = DEFAULT_MODEL,
    data: TextOption = "stdlib+self",
    tokens: Annotated[int, whole_option("--tokens", least=1, help="of training text")] = 22_000,
    heldout: Annotated[
        int, whole_option("--heldout", least=1, help="tokens of held-out text of each source")
    ] = 768,
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder of the results, gone on with")] = Path(
        "runs/bits"
    ),
    overwrite: OverwriteOption = False,
    seed: Annotated[
        int, whole_option("--seed", least=0, most=MOST_SEED, help="of text, prompts and fits")
    ] = 0,
    device: DeviceOption = None,
) -> None:
    """What every kind keeps at every rate, beside baselines. Resumes."""
    from interp.files import check_folder, clear_folder

    check_folder(out, "rates")
    from interp.evaluation.rates import RateConfig, measure_rates
    from interp.models import load_model
    from interp.progress import bar
    from interp.text import open_sources

    open_sources(data)
    given: dict[str, Any] = {name: names(told) for name, told in (("kinds", kinds), ("sites", sites)) if told}
    config = RateConfig(bits=numbers(bits), text=data, n_tokens=tokens, n_heldout=heldout, seed=seed, **given)
    if overwrite:
        clear_folder(out, "rates")
    with goes_on(out):
        result = measure_rates(load_model(model, device=device), out, config, stage=bar)
    from interp.cli.render import print_rates

    print_rates(result)
    typer.echo(f"\nsaved    {out / 'rates.json'}")
    suggest((workbench_of(out), "the curve in the browser, on the page Evaluation"))
