"""``interp reproduce``: published experiments from scratch, beside their published numbers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.app import workbench_of
from interp.cli.options import MOST_SEED, DeviceOption, whole_option
from interp.cli.terminal import goes_on, suggest

reproduce_app = typer.Typer(
    help="Published experiments from scratch, beside their published numbers.", no_args_is_help=True
)


@reproduce_app.callback()
def _root() -> None:
    """Keeps the experiment's name a word of the command while there is but one."""


@reproduce_app.command()
def tokfsm(
    scale: Annotated[
        Literal["quick", "cpu", "full"],
        typer.Option(
            metavar="SCALE",
            help="quick (10 M tokens), cpu (20 M) or full (2.6 G, a GPU)",
        ),
    ] = "cpu",
    seed: Annotated[
        int, whole_option("--seed", least=0, most=MOST_SEED, help="seed of weights and text")
    ] = 0,
    tokens: Annotated[
        int | None, whole_option("--tokens", least=1, help="train on so many in all (default: the scale's)")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="folder to write (default: runs/tokfsm-SCALE-seedN)"),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train the finite-state model with codebooks, measure it, compare. Resumes where a killed run stopped."""
    from benchmarks.tokfsm.recipe import recipe

    wanted = recipe(scale, seed=seed, tokens=tokens)
    folder = out or Path("runs") / f"tokfsm-{scale}-seed{seed}"

    from benchmarks.tokfsm.folder import PAGE, save
    from benchmarks.tokfsm.reproduce import measure, train
    from interp.models import parse_device
    from interp.progress import bar

    words = ["interp", "reproduce", "tokfsm", "--scale", scale, "--seed", str(seed)]
    words += [] if tokens is None else ["--tokens", str(tokens)]
    words += [] if out is None else ["--out", str(out)]
    with goes_on(folder):
        training = train(wanted, folder, device=str(parse_device(device)), stage=bar)
        save(training, measure(training, stage=bar), folder, words)
    typer.echo((folder / PAGE).read_text(encoding="utf-8"))
    typer.echo(f"saved    {folder}")
    suggest((workbench_of(folder), "the same in the browser, on the page Evaluation"))
