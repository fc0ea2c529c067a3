"""``interp index``: the codes of a corpus on disk; search them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from interp import DEFAULT_CODEBOOKS
from interp.cli import options
from interp.cli.options import DEFAULT_MODEL, flag, option, seed_option, share_option, whole_option
from interp.cli.terminal import goes_on, suggest
from interp.errors import InputError

index_app = typer.Typer(
    add_completion=False,
    help="Index the codes of a corpus; name them; find them by regular expression, token or prompt.",
    no_args_is_help=True,
)
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="a code index")]


@index_app.command()
def build(
    model: options.SomeModelOption = DEFAULT_MODEL,
    codebooks: options.CodebooksOption = DEFAULT_CODEBOOKS,
    data: options.TextOption = "stdlib+self",
    tokens: Annotated[int, whole_option(help="tokens of text, at most")] = 50_000,
    k: options.CodesPerVectorOption = None,
    split: Annotated[Literal["train", "heldout"], option("SPLIT", "documents: train or heldout")] = "train",
    spliced: Annotated[
        bool, flag("--spliced/--plain", "codes of the model with every codebook in place, or of the plain model")
    ] = False,
    out: Annotated[Path | None, option("DIR", "folder to write (default: runs/index-MODEL-TEXT)")] = None,
    overwrite: options.OverwriteOption = False,
    context: Annotated[int | None, options.context_option(128)] = None,
    seed: Annotated[int, seed_option("the text")] = 0,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BlocksOption = 16,
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
    shard: options.ShardOption = None,
) -> None:
    """Write the codes of a corpus to disk; resumes where a killed build stopped."""
    from interp.files import check_folder, clear_folder

    name, source = options.file_name(model), Path(data).stem if Path(data).exists() else data
    folder = out or Path("runs") / f"index-{name}-{source.replace(':', '-').replace('/', '-')}"
    check_folder(folder, "a code index")

    from interp.bottlenecks.store import Codebooks
    from interp.cli.render_codes import print_index
    from interp.codesearch import build_index, build_parts
    from interp.models import load_model
    from interp.progress import bar
    from interp.text import load_text, open_sources

    placement, part = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, shard, device)
    open_sources(data)  # a wrong name should not wait for the model
    Codebooks.from_pretrained(codebooks)
    loaded = load_model(model, device=device, dtype=dtype)
    books = Codebooks.from_pretrained(codebooks, loaded, k=k)
    context = context or min(128, loaded.cfg.n_ctx)
    text = load_text(data, loaded, n_tokens=tokens, context=context, split=split, seed=seed, stage=bar)
    if overwrite:
        clear_folder(folder, "a code index")
    how: dict[str, Any] = {"error_term": not spliced, "batch_size": batch_size, "stage": bar}
    with goes_on(folder):
        if part is not None or not placement.serial:
            build_parts(loaded, books, text, folder, workers=placement, shard=part, **how)
        if part is not None:
            typer.echo(f"shard {part} of {folder} is done; the same command without --shard gathers all")
            return
        index = build_index(loaded, books, text, folder, **how)
    print_index(index)
    typer.echo(f"saved    {folder}")
    words = ["index", "search", str(folder), "--regex", r"\bNew \w+"]
    suggest((words, "codes that mark a pattern"))


@index_app.command()
def info(folder: FolderArgument) -> None:
    """Print what an index holds."""
    from interp.cli.render_codes import print_index
    from interp.codesearch import CodeIndex

    print_index(CodeIndex.open(folder))


@index_app.command()
def export(
    folder: FolderArgument,
    out: Annotated[Path | None, option("FILE", "parquet file to write (default: DIR.parquet)")] = None,
    overwrite: options.OverwriteOption = False,
) -> None:
    """Write an index as one parquet table: a row a token, a column a codebook."""
    from interp.codesearch import CodeIndex
    from interp.codesearch.tables import write_parquet
    from interp.files import check_file, unused
    from interp.progress import bar

    path = out or unused(options.named(folder).with_name(f"{options.named(folder).name}.parquet"))
    if path.suffix != ".parquet":
        raise InputError(f"--out {path}: name a file that ends in .parquet")
    check_file(path, "--out", overwrite=overwrite)
    index = CodeIndex.open(folder)
    write_parquet(index, path, stage=bar)
    typer.echo(f"saved    {path}    # {index.n_tokens} tokens, {len(index.books)} codebooks")


@index_app.command()
def label(
    folder: FolderArgument, seed: Annotated[int, seed_option("which documents choose, and which measure")] = 0
) -> None:
    """Name every code by what its head looks at, what it stands at, and what it writes, all measured on the text."""
    from interp.cli.render_codes import print_labels
    from interp.codesearch import CodeIndex, label_index
    from interp.codesearch.labels import keep
    from interp.models import load_model
    from interp.progress import bar

    index, model = CodeIndex.open(folder), None
    try:
        index.codebooks()
        if (spec := index.manifest["model"]["spec"]) is None:
            raise InputError("the index does not say which model it is of")
        model = load_model(spec)
    except InputError as error:
        typer.echo(f"what codes write is left out: {error}", err=True)
    labels = label_index(index, model=model, seed=seed, stage=bar)
    print_labels(labels)
    for path in keep(index, labels):
        typer.echo(f"saved    {path}")


@index_app.command()
def explain(
    folder: FolderArgument,
    endpoint: Annotated[str, option("URL", "server that speaks OpenAI's chat completions, up to /v1")],
    asked: Annotated[str, option("NAME", "model of that server")],
    codes: Annotated[str | None, option("CODES", "such as a27.h2=17,m5=31 (default: those of clearest label)")] = None,
    n: Annotated[int, whole_option("--n", "-n", help="how many of clearest label")] = 10,
    seed: Annotated[int, seed_option("which documents explain, and which judge")] = 0,
) -> None:
    """Let a language model of yours say what codes mean, and judge it on other text.

    Its key is that of the environment's INTERP_API_KEY. What it said before is not asked again.
    """
    import os

    from interp.bottlenecks.edits import parse_codes
    from interp.cli.render_codes import print_explanations
    from interp.codesearch import CodeIndex, Endpoint, explain_codes, labels_of
    from interp.progress import bar

    index = CodeIndex.open(folder)
    labels = labels_of(index)
    if codes is not None:
        chosen = [index.layout.named(f"{site}={code}") for site, code, _ in parse_codes(codes)]
    elif labels is not None:
        chosen = labels.clearest(n)
    else:
        raise InputError(f"{folder} has no labels: name --codes, or run `interp index label {folder}`")
    ask = Endpoint(endpoint, asked, os.environ.get("INTERP_API_KEY", ""))
    print_explanations(explain_codes(index, chosen, ask, asked, seed=seed, stage=bar), labels, chosen)


@index_app.command()
def search(
    folder: FolderArgument,
    regex: Annotated[
        str | None, option("PATTERN", "rank codes by how well they mark its matches (Rust's syntax, linear time)")
    ] = None,
    token: Annotated[
        str | None, option("TEXT", "rank codes by how well they mark one token, with or without a space")
    ] = None,
    prompt: Annotated[str | None, option("TEXT", "contexts that share codes with the prompt's token")] = None,
    position: Annotated[int, option("INTEGER", "which token of the prompt; -1 the last")] = -1,
    code: Annotated[
        str | None, option("SITE=ID", "one code's page, such as a12.h3=97, or a12.h3=3.all of a coarse one")
    ] = None,
    coarse: Annotated[bool, flag("--coarse", "rank coarse codes, of which a book has few")] = False,
    n: Annotated[int, whole_option("--n", "-n", help="results; of --code at most 10 contexts")] = 20,
    sort: Annotated[
        Literal["f1", "precision", "recall", "count"], option("KEY", "f1, precision, recall or count")
    ] = "f1",
    min_precision: Annotated[float, share_option(help="least precision")] = 0.0,
    min_recall: Annotated[float, share_option(help="least recall")] = 0.0,
    also: Annotated[
        list[Path] | None, option("DIR", "another text's index of the same codebooks, which chooses no code")
    ] = None,
    device: options.DeviceOption = None,
    dtype: Annotated[options.Dtype | None, option("DTYPE", "float32, bfloat16 or float16; that of the index")] = None,
) -> None:
    """Find codes by --regex or --token, contexts by --prompt, or show one --code."""
    if sum(value is not None for value in (regex, token, prompt, code)) != 1:
        raise InputError("choose one of --regex, --token, --prompt and --code")
    of_rank = {"--sort": sort != "f1", "--min-precision": min_precision > 0, "--min-recall": min_recall > 0}
    if regex is None and token is None:
        _refuse(of_rank | {"--also": bool(also), "--coarse": coarse}, "ranks what --regex or --token finds")
    if prompt is None:
        of_model = {"--position": position != -1, "--device": device is not None, "--dtype": dtype is not None}
        _refuse(of_model, "is about the model that reads --prompt")
    from interp import codesearch
    from interp.cli.render_codes import print_page, print_scores, print_similar

    index = codesearch.CodeIndex.open(folder)
    if code is not None:
        level = index if codesearch.coarse_code(code) is None else codesearch.coarse_level(index)
        if level is index:
            code = codesearch.fine_codes(code, codesearch.labels_of(index))
        print_page(
            codesearch.code_page(level, *level.named(code), n=n),
            codesearch.labels_of(level),
            codesearch.explanations_of(index),
        )
        return
    if prompt is not None:
        from interp.models import load_model

        described = index.manifest["model"]
        if described["spec"] is None:
            raise InputError(f"{folder} does not say which model it is of: search it from Python")
        dtype = dtype or described.get("dtype", "float32")
        loaded = load_model(described["spec"], device=device, dtype=dtype)
        codes = codesearch.prompt_codes(index, loaded, prompt, position=position)
        print_similar(index, codesearch.search_similar(index, codes, n))
        return
    others = [codesearch.CodeIndex.open(path) for path in also or ()]
    for other in others:
        other.check_comparable(index)
    search, pattern = (codesearch.search_token, token or "") if regex is None else (codesearch.search_regex, regex)
    if coarse:
        level = codesearch.coarse_level(index)
        # the same codes: other texts would merge them otherwise
        index, others = level, [codesearch.CoarseIndex(other, level.groups) for other in others]
    scores, *rest = (search(searched, pattern) for searched in (index, *others))
    places = scores.places(sort=sort, min_precision=min_precision, min_recall=min_recall, most=n)
    best = scores.hits_at(places)
    elsewhere = {str(path): other.hits_at(places) for path, other in zip(also or (), rest, strict=True)}
    print_scores(scores, best, codesearch.labels_of(index), elsewhere)
    if best:
        words = ["index", "search", str(folder), "--code", index.name(best[0].book, best[0].code)]
        typer.echo()
        suggest((words, "where the best one fires"))


def _refuse(useless: dict[str, bool], why: str) -> None:
    """Refuse the first option that was given, of those that say nothing here."""
    for name, was_given in useless.items():
        if was_given:
            raise InputError(f"{name} {why}: it says nothing here")
