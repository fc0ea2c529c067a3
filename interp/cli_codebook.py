"""``interp codebook``: fit codebooks at many sites of a model, measure what they cost it."""

from pathlib import Path
from typing import Annotated

import typer

from interp.failures import goes_on
from interp.options import (
    DEFAULT_MODEL,
    MOST_SEED,
    BlocksOption,
    DeviceOption,
    DtypeOption,
    SomeModelOption,
    TextOption,
    context_option,
    file_name,
    one_of,
    whole_option,
)
from interp.tasks.errors import InputError
from interp.terminal import suggest

FIT_TOKENS = 22_000
"""What the codebooks of the package were begun with, and those of the tables of training."""

codebook_app = typer.Typer(
    help="Fit codebooks at many sites of a model; measure what they cost it.", no_args_is_help=True
)


@codebook_app.command()
def fit(
    sites: Annotated[
        list[str],
        typer.Option(metavar="SITES", help="heads, mlps, a*, m5, r4 …; several with commas, or repeat"),
    ] = ["heads"],  # noqa: B006
    model: SomeModelOption = DEFAULT_MODEL,
    data: TextOption = "stdlib+self",
    tokens: Annotated[
        int, whole_option("--tokens", least=1, help="tokens of text to fit on, at most")
    ] = FIT_TOKENS,
    codes: Annotated[int, whole_option("--codes", least=1, help="codes per book (per head at heads)")] = 512,
    k: Annotated[int, whole_option("--k", "-k", least=1, help="codes per vector")] = 8,
    selection: Annotated[
        str, typer.Option(parser=one_of("cosine", "residual"), metavar="RULE", help="cosine or residual")
    ] = "residual",
    magnitude: Annotated[
        str, typer.Option(parser=one_of("dropped", "kept"), metavar="RULE", help="dropped or kept")
    ] = "dropped",
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential/--independent",
            help="fit each book behind the earlier ones, or each in the plain model",
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="folder to write (default: runs/MODEL-SELECTION-kK)"),
    ] = None,
    context: Annotated[int | None, context_option(64)] = None,
    seed: Annotated[
        int, whole_option("--seed", least=0, most=MOST_SEED, help="seed of text and k-means")
    ] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BlocksOption = 32,
) -> None:
    """Fit one codebook per site by k-means, without gradients; resumes where a killed run stopped."""
    from interp.files import check_folder

    folder = out or Path("runs") / f"{file_name(model)}-{selection}-k{k}"
    check_folder(folder, "manifest.json")

    from interp.bottlenecks.fitting import FitConfig, fit_codebooks, new_books
    from interp.models import load_model
    from interp.progress import bar
    from interp.text import load_text, open_sources

    open_sources(data)  # a wrong name should not wait for the model
    config = FitConfig(
        n_codes=codes, k=k, selection=selection, magnitude=magnitude, sequential=sequential, seed=seed
    )
    loaded = load_model(model, device=device, dtype=dtype)
    patterns = [part for group in sites for part in group.replace(",", " ").split()]
    new_books(loaded, patterns, config)  # a site that is not there should not wait for the text
    context = context or min(64, loaded.cfg.n_ctx)
    text = load_text(data, loaded, n_tokens=tokens, context=context, seed=seed, stage=bar)
    with goes_on(folder):
        books = fit_codebooks(loaded, text, patterns, folder, config, batch_size=batch_size, stage=bar)
    typer.echo(
        f"fitted   {len(books.sites)} sites on {text.n_tokens} tokens of {text.spec} "
        f"({len(text.tokens)} blocks of {context}, {text.n_documents} documents)"
    )
    typer.echo(f"saved    {folder}")
    suggest((["codebook", "eval", str(folder)], "what they cost the model"))


@codebook_app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder of fitted codebooks")],
    data: Annotated[
        list[str],
        typer.Option(metavar="TEXT", help="held-out text, as of fit; repeat for several, each apart"),
    ] = ["stdlib", "self"],  # noqa: B006
    tokens: Annotated[int, whole_option("--tokens", least=1, help="tokens of each text, at most")] = 4096,
    k: Annotated[
        list[str],
        typer.Option(
            "--k", "-k", metavar="K", help="codes per vector: 1,2,4,8 for several (default: as fitted)"
        ),
    ] = [],  # noqa: B006
    controls: Annotated[
        int,
        whole_option(
            "--controls", least=0, help="blocks on which the controls are measured, at least 2; 0 for none"
        ),
    ] = 16,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="(default: the one they were fitted on)"),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="where the result goes (default: DIR/quality.json)"),
    ] = None,
    seed: Annotated[
        int, whole_option("--seed", least=0, most=MOST_SEED, help="seed of text and controls")
    ] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BlocksOption = 16,
) -> None:
    """Run held-out text through all codebooks at once: loss, KL, accuracy, use of codes; against controls."""
    from interp.bottlenecks.book_folder import BookFolder
    from interp.files import check_file, write_json
    from interp.options import whole

    if controls == 1:  # which should not wait for the text
        raise InputError("--controls 1: an interval needs at least 2 blocks, and 0 leaves controls out")
    books = BookFolder.open(folder)
    path = json_file or folder / "quality.json"
    check_file(path, "--json", read=(model,))
    wanted = [whole(1)(part) for group in k for part in group.replace(",", " ").split()]

    from interp.codebook_console import print_quality
    from interp.evaluation.codebook_quality import quality_of_folder
    from interp.models import load_model
    from interp.progress import bar

    spec = model or books.manifest["model"]["spec"]
    if spec is None:
        raise InputError(f"{folder} does not say which model it is of: name it with --model")
    loaded = load_model(spec, device=device, dtype=dtype)
    result = quality_of_folder(
        loaded,
        books,
        data,
        ks=sorted(set(wanted)) or None,
        n_tokens=tokens,
        control_blocks=controls,
        batch_size=batch_size,
        seed=seed,
        stage=bar,
    )
    write_json(path, result)
    print_quality(result)
    typer.echo(f"\nsaved    {path}")
    fit_of, text = books.manifest["fit"], books.manifest["text"]
    other = {
        "selection": "cosine" if fit_of["selection"] == "residual" else "residual",
        "k": fit_of["k"],
        "codes": fit_of["n_codes"],
        "sites": ",".join(books.manifest["sites"]),
        "data": text["spec"],
        "tokens": text["n_tokens"],
        "context": text["context"],
        "magnitude": fit_of["magnitude"],
        "seed": fit_of["seed"],
        "model": spec,
    }
    words = ["codebook", "fit", *(str(word) for key, value in other.items() for word in (f"--{key}", value))]
    words += [] if fit_of["sequential"] else ["--independent"]
    suggest((words, "the other selection, else the same"))
