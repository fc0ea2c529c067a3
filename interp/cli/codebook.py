"""``interp codebook``: fit codebooks at many sites of a model, measure what they cost it, train and pack them.

``interp bottlenecks``: the kinds there are.
"""

import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from interp.cli import options
from interp.cli.options import DEFAULT_MODEL, flag, number_option, option, seed_option, whole_option
from interp.cli.terminal import goes_on, suggest, words_of
from interp.errors import InputError

FIT_TOKENS = 22_000  # what the codebooks of the package were begun with, and those of the tables of training

HELD_OUT = ["stdlib", "self"]

codebook_app = typer.Typer(
    add_completion=False,
    help="Fit codebooks at many sites of a model; measure what they cost it.",
    no_args_is_help=True,
)


@codebook_app.command()
def fit(
    sites: Annotated[list[str], option("SITES", "heads, mlps, a*, m5, r4 …; with commas, or repeat")] = ["heads"],  # noqa: B006
    model: options.SomeModelOption = DEFAULT_MODEL,
    data: options.TextOption = "stdlib+self",
    tokens: Annotated[
        int, whole_option(help="tokens of text to fit on, at most: 20 a code to read codes, 22000 to steer")
    ] = FIT_TOKENS,
    codes: Annotated[int, whole_option(help="codes per codebook (per head at heads)")] = 512,
    k: Annotated[int, whole_option("--k", "-k", help="codes per vector")] = 8,
    selection: Annotated[
        Literal["cosine", "matching_pursuit"], option("RULE", "cosine or matching_pursuit")
    ] = "matching_pursuit",
    magnitude: Annotated[Literal["unit", "scaled"], option("RULE", "unit or scaled")] = "unit",
    kind: Annotated[
        str, option("KIND", "codebook, residual-vq, binary, … (interp bottlenecks), or file.py:Class")
    ] = "codebook",
    bits: Annotated[int | None, whole_option(help="of a vector, of other kinds than codebook")] = None,
    set_: Annotated[list[str], option("KEY=VALUE", "an option of another kind; repeatable", "--set")] = [],  # noqa: B006
    sequential: Annotated[
        bool,
        flag("--sequential/--independent", "fit each codebook behind the earlier ones, or each in the plain model"),
    ] = True,
    out: Annotated[
        Path | None, option("DIR", "folder to write (default: runs/MODEL-SELECTION-kK or MODEL-KIND)")
    ] = None,
    overwrite: options.OverwriteOption = False,
    context: Annotated[int | None, options.context_option(64)] = None,
    seed: Annotated[int, seed_option("text and k-means")] = 0,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BlocksOption = 32,
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
    shard: options.ShardOption = None,
) -> None:
    """Fit one codebook per site, without gradients through the model; resumes where a killed run stopped."""
    from interp.files import check_folder, clear_folder

    size = [str(bits)] if bits else []
    kept_as = f"{selection}-k{k}" if kind == "codebook" else "-".join([kind.rpartition(":")[2], *size])
    folder = out or Path("runs") / f"{options.file_name(model)}-{kept_as}"
    check_folder(folder, "codebooks")

    from interp.bottlenecks.base import radices
    from interp.bottlenecks.fit import FitConfig, few_tokens, fit_codebooks, fit_parts, new_books
    from interp.models import load_model
    from interp.progress import bar
    from interp.text import load_text, open_sources

    placement, part = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, shard, device)
    open_sources(data)  # a wrong name should not wait for the model
    config = FitConfig(
        n_codes=codes,
        k=k,
        selection=selection,
        magnitude=magnitude,
        sequential=sequential,
        seed=seed,
        kind=kind,
        bits=bits,
        options=options.key_values(set_),
    )
    loaded = load_model(model, device=device, dtype=dtype)
    patterns = [part for group in sites for part in group.replace(",", " ").split()]
    new = new_books(loaded, patterns, config)  # a site that is not there should not wait for the text
    context = context or min(64, loaded.cfg.n_ctx)
    text = load_text(data, loaded, n_tokens=tokens, context=context, seed=seed, stage=bar)
    if note := few_tokens(text.n_tokens, max(max(radices(book.config)) for book in new.values())):
        typer.echo(f"note     {note}")
    if overwrite:
        clear_folder(folder, "codebooks")
    how: dict[str, Any] = {"batch_size": batch_size, "stage": bar}
    with goes_on(folder):
        if part is not None or not placement.serial:
            fit_parts(loaded, patterns, text, folder, config, workers=placement, shard=part, **how)
        if part is not None:
            typer.echo(f"shard {part} of {folder} is done; the same command without --shard gathers all")
            return
        books = fit_codebooks(loaded, patterns, text, folder, config, **how)
    typer.echo(
        f"fitted   {len(books.sites)} sites on {text.n_tokens} tokens of {text.spec} "
        f"({len(text.tokens)} blocks of {context}, {text.n_documents} documents)"
    )
    typer.echo(f"saved    {folder}")
    suggest((["codebook", "eval", str(folder)], "what they cost the model"))


@codebook_app.command("eval")
def evaluate(
    context: options.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder of fitted codebooks")],
    data: Annotated[list[str], option("TEXT", "held-out text, as of fit; repeat for several, each apart")] = HELD_OUT,
    tokens: Annotated[int, whole_option(help="tokens of each text, at most")] = 4096,
    k: Annotated[
        list[str], option("K", "codes per vector: 1,2,4,8 for several (default: as fitted)", "--k", "-k")
    ] = [],  # noqa: B006
    controls: Annotated[
        int, whole_option(least=0, help="blocks on which the controls are measured, at least 2; 0 for none")
    ] = 16,
    model: options.FittedModelOption = None,
    json_file: Annotated[
        Path | None, option("FILE", "where the result goes (default: DIR/quality.json)", "--json")
    ] = None,
    overwrite: options.OverwriteOption = False,
    seed: Annotated[int, seed_option("text and controls")] = 0,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BlocksOption = 16,
) -> None:
    """Run held-out text through all codebooks at once: loss, KL, accuracy, use of codes; against controls."""
    from interp.bottlenecks.store import Codebooks
    from interp.files import check_file, write_json

    if controls == 1:  # which should not wait for the text
        raise InputError("--controls 1: an interval needs at least 2 blocks, and 0 leaves controls out")
    books = Codebooks.from_pretrained(folder)
    path = json_file or folder / "quality.json"
    request = options.request_of_command(context)
    within = folder if json_file is None else None
    check_file(path, "--json", request=request, overwrite=overwrite, within=within)
    ks = [part for group in k for part in options.numbers(group)]

    from interp.cli.render_codes import print_quality
    from interp.evaluation.codebook_quality import quality_of_folder
    from interp.models import load_model
    from interp.progress import bar

    spec = model or options.spec_of(books.manifest, folder)
    loaded = load_model(spec, device=device, dtype=dtype)
    result = quality_of_folder(
        loaded,
        books,
        data,
        ks=sorted(set(ks)) or None,
        n_tokens=tokens,
        control_blocks=controls,
        batch_size=batch_size,
        seed=seed,
        stage=bar,
    )
    write_json(path, {"request": request, **result})
    print_quality(result)
    typer.echo(f"\nsaved    {path}")
    fit_of, text = books.manifest["fit"], books.manifest["text"]
    if "kind" in fit_of:
        suggest((["codebook", "train", str(folder)], "go on with gradients"))
        return
    selection = "cosine" if fit_of["selection"] == "matching_pursuit" else "matching_pursuit"
    other = {"--selection": selection, "--k": fit_of["k"], "--codes": fit_of["n_codes"], "--model": spec}
    other |= {"--sites": ",".join(books.manifest["sites"]), "--data": text["spec"], "--tokens": text["n_tokens"]}
    other |= {"--context": text["context"], "--magnitude": fit_of["magnitude"], "--seed": fit_of["seed"]}
    words = words_of(other) + ([] if fit_of["sequential"] else ["--independent"])
    suggest((["codebook", "fit", *words], "the other selection, else the same"))


@codebook_app.command()
def train(
    start: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="fitted codebooks to start from; fitted first if not given")
    ] = None,
    out: Annotated[Path | None, option("DIR", "folder to write (default: START-OBJECTIVE)")] = None,
    overwrite: options.OverwriteOption = False,
    objective: Annotated[
        Literal["local", "distilled", "joint"],
        option("NAME", "local (reconstruction), distilled (KL to the plain model), joint (model tuned too)"),
    ] = "distilled",
    data: options.TextOption = "stdlib+self",
    tokens: Annotated[int, whole_option(help="tokens of text, at most")] = 100_000,
    epochs: Annotated[int, whole_option(most=10**4, help="times the text is seen")] = 1,
    lr: Annotated[
        float | None,
        number_option(
            help="step of the codes, in units of the spread at their site "
            "(default: .02 for one code a vector, .01 for up to 8, .002 for more; at MLPs .003 at most)"
        ),
    ] = None,
    model_lr: Annotated[
        float | None, number_option(help="step of the model's weights, in joint training (default: 2e-5)")
    ] = None,
    mse_weight: Annotated[
        float | None,
        number_option(help="nats that the unexplained share of variance weighs, unless local (default: 0.1)"),
    ] = None,
    nested: Annotated[
        bool, flag("--nested", "codes per vector drawn anew each step, up to the codebooks' own k")
    ] = False,
    centroid_refits: Annotated[
        int, whole_option(least=0, most=1000, help="rounds of refitting centroids at the end (distilled, not nested)")
    ] = 0,
    replace_every: Annotated[
        int, whole_option(least=0, help="steps between replacements of dead codes; 0: never")
    ] = 50,
    checkpoint_every: Annotated[int, whole_option(help="steps between checkpoints")] = 50,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        option("NAME", "of products; bfloat16 is faster if the processor has it; auto: on a GPU only"),
    ] = "auto",
    model: options.FittedModelOption = None,
    context: Annotated[int | None, whole_option(least=2, help="tokens per block (default: as fitted)")] = None,
    seed: Annotated[int, seed_option("text and order")] = 0,
    device: options.DeviceOption = None,
    batch_size: options.BlocksOption = 8,
) -> None:
    """Train codebooks with gradients; resumes where a killed run stopped.

    torchrun --nproc-per-node N -m interp codebook train … shares each batch out among N processes.
    """
    from interp.bottlenecks.store import MODEL_FOLDER, Codebooks, is_store
    from interp.files import check_folder, clear_folder

    if model_lr is not None and objective != "joint":
        raise InputError(f"--model-lr {model_lr}: {objective} training leaves the model as it is, joint trains it")
    if mse_weight is not None and objective == "local":
        raise InputError(f"--mse-weight {mse_weight}: local training minimises the unexplained share alone")
    if start is not None:
        books: Codebooks | None = Codebooks.from_pretrained(start)
    else:
        start = Path("runs") / f"{options.file_name(model or DEFAULT_MODEL)}-matching_pursuit-k8"
        books = Codebooks.from_pretrained(start) if is_store(start) else None
    folder = out or options.named(start).with_name(f"{options.named(start).name}-{objective}")
    check_folder(folder, "codebooks")

    from interp.bottlenecks.fit import FitConfig, fit_codebooks
    from interp.bottlenecks.processes import first, join_torchrun, wait, world
    from interp.models import load_model
    from interp.models.save import check_saveable
    from interp.progress import bar, silent
    from interp.text import load_text, open_sources
    from interp.training import StepResult, TrainConfig, train_codebooks
    from interp.training.run import describe

    set_here = {"model_lr": model_lr, "mse_weight": mse_weight}
    config = TrainConfig(
        objective=objective,
        lr=lr,
        **{name: value for name, value in set_here.items() if value is not None},
        batch_size=batch_size,
        epochs=epochs,
        nested=nested,
        centroid_refits=centroid_refits,
        replace_every=replace_every,
        checkpoint_every=checkpoint_every,
        precision=precision,
        seed=seed,
    )
    open_sources(data)  # a wrong name should not wait for the model
    spec = model or (options.spec_of(books.manifest, start) if books else DEFAULT_MODEL)
    device = join_torchrun(device)
    if books is None and world() > 1:
        raise InputError("torchrun trains codebooks that are there: name the folder of fitted ones")
    stage = bar if first() else silent
    loaded = load_model(spec, device=device)
    if objective == "joint":
        check_saveable(loaded)  # which should not wait for the text either
    if books is None:
        block, fit_tokens = context or min(64, loaded.cfg.n_ctx), min(FIT_TOKENS, tokens)
        with goes_on(start):
            text = load_text(data, loaded, n_tokens=fit_tokens, context=block, seed=seed, stage=bar)
            typer.echo(f"fitting  codebooks at all heads into {start}")
            books = fit_codebooks(loaded, "heads", text, start, FitConfig(seed=seed), stage=bar)
    books.check_model(loaded)
    fitted_on = books.manifest["text"].get("spec")
    typer.echo(
        f"from     {start}, {len(books.sites)} sites: {books.sites[0]} … {books.sites[-1]}, fitted on {fitted_on}"
    )
    length = context or books.manifest["text"]["context"]
    text = load_text(data, loaded, n_tokens=tokens, context=length, seed=seed, stage=stage)
    times: list[tuple[int, float]] = []

    def watch(done: int, n_steps: int, result: StepResult) -> None:
        times.append((done, time.perf_counter()))
        speed = ""
        if len(times) > 1:
            (first, then), (last, now) = times[-2:]
            speed = f"  {(last - first) * batch_size * length / (now - then):.0f} tokens/s"
        typer.echo(f"step {done}/{n_steps}  {describe(result)}{speed}")

    if overwrite and first():
        clear_folder(folder, "codebooks")
    wait()
    with goes_on(folder):
        train_codebooks(loaded, books, text, folder, config, stage=stage, watch=watch)
    read = len(text.tokens) // batch_size * batch_size * length  # what fills no batch is left out
    typer.echo(f"trained  {len(books.sites)} sites on {epochs} × {read} tokens of {text.spec}, {objective}")
    typer.echo(f"saved    {folder}")
    if objective == "joint":
        typer.echo(f"model    {folder / MODEL_FOLDER}    # finetuned; the codebooks are of this one")
    suggest((["codebook", "eval", str(folder)], "what they cost the model"))


@codebook_app.command()
def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder of codebooks")],
    out: Annotated[Path, option("DIR", "folder to write")],
    overwrite: options.OverwriteOption = False,
    storage: Annotated[Literal["int8", "float16"], option("NAME", "int8 or float16")] = "int8",
) -> None:
    """Write codebooks as one small file, a quarter or half of the size."""
    from interp.bottlenecks.store import Codebooks
    from interp.files import check_folder, clear_folder

    check_folder(out, "codebooks")
    if overwrite:
        clear_folder(out, "codebooks")
    books = Codebooks.from_pretrained(folder).pack(out, storage)
    size = sum(path.stat().st_size for path in out.iterdir())
    typer.echo(f"saved    {out} ({len(books.sites)} sites, {size / 1e6:.1f} MB)")
    suggest((["codebook", "eval", str(out)], "what they cost the model"))


SIZE = ("d_in", "groups", "seed")  # what of a kind's config the site and the command say


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
