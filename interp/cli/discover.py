"""``interp discover``, from a task's name to a run with its report; ``program``, ``validate``, ``export`` of a run.

``interp grow``: nested circuits that do a task by themselves.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp import CANDIDATES, MIN_PAIRS, MOST_PAIRS, THRESHOLD
from interp.cli import options
from interp.cli.options import flag, option, pairs_option, share_option, whole_option
from interp.cli.terminal import plain_console, suggest, table, words_of
from interp.errors import InputError


def grow(
    task: Annotated[str, typer.Argument(metavar="TASK", help="as of interp discover")],
    model: options.ModelOption = None,
    n: options.PairsOption = None,
    held_out: Annotated[int, whole_option(least=MIN_PAIRS, most=MOST_PAIRS, help="other pairs, to run them on")] = 20,
    seed: options.SeedOption = 0,
    counterfactual: options.CounterfactualOption = None,
    out: Annotated[Path | None, option("FILE", "JSON file to write (default: runs/TASK-grown.json)")] = None,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BatchOption = 16,
) -> None:
    """Grow circuits that do TASK with all other heads off, and run them on prompts they have not seen.

    Another question than interp discover's, which asks what each head does with all others on. Up to 32 pairs are used.
    """
    from interp.files import check_file, unused, write_json

    task_loaded, spec = options.task_and_model(task, model, counterfactual)
    path = out or unused(Path(f"{options.default_folder(task_loaded.name, model, 'grown')}.json"))
    request = {"task": task, "model": spec, "n": n, "held_out": held_out, "seed": seed}
    request["counterfactual"] = counterfactual
    check_file(path, "--out", request=request, overwrite=overwrite)

    from dataclasses import asdict

    from interp.activations.stream import HUNDREDTHS, check_context
    from interp.circuits.verify import check_known_gap
    from interp.cli.render import print_nested
    from interp.evaluation.nested_circuits import n_circuits, run_nested
    from interp.interventions.ablation import Ablator
    from interp.models import describe_model, load_model, parse_device
    from interp.progress import bar
    from interp.prompts.sampling import held_out_pairs, sample_pairs
    from interp.scores.adaptive_patching.nested import MOST_PAIRS, NestedCircuitsConfig, nested_circuits

    parse_device(device)
    loaded = load_model(spec, device=device, dtype=dtype)
    most = min(task_loaded.default_n, MOST_PAIRS)
    n_used = None if n is None else min(n, MOST_PAIRS)
    if n_used is None:  # of a task that has few, some have to be left
        n_pairs = len(sample_pairs(task_loaded, loaded.tokenizer, None, most + held_out, seed, counterfactual))
        n_used = min(most, max(n_pairs - held_out, min(n_pairs // 2, n_pairs - MIN_PAIRS), 2))
    pairs = sample_pairs(task_loaded, loaded.tokenizer, n_used, most, seed, counterfactual)
    check_context(loaded, pairs)
    others = held_out_pairs(task_loaded, loaded.tokenizer, held_out, pairs, counterfactual)
    if len(others) < MIN_PAIRS:
        raise InputError(
            f"{len(others)} pairs beyond the {len(pairs)} used: at least {MIN_PAIRS} are needed for an interval, "
            + ("so use fewer (-n)" if len(pairs) > 2 else f"so give {MIN_PAIRS + 2} pairs or more")
        )
    with bar("does the model do the task?", len(others)) as advance:
        ablator = Ablator(loaded, others, batch_size=batch_size, progress=advance)
    check_known_gap(loaded, others, ablator.metric_clean, ablator.metric_corrupt)
    config = NestedCircuitsConfig(batch_size=batch_size)
    with bar("growing", HUNDREDTHS) as advance:
        nested = nested_circuits(loaded, pairs, config, progress=advance)
    with bar("circuits alone", n_circuits(nested) * len(others)) as advance:
        curve = run_nested(nested, ablator, seed=seed, progress=advance)
    result = {
        "request": request,
        "model": describe_model(loaded),
        "prompts": pairs.provenance(),
        "held_out": others.provenance(),
        "growth": {"config": nested.config, "cost": asdict(nested.cost), "heads": nested.heads.tolist()},
        **asdict(curve),
    }
    path = path if out else unused(path)  # another process may have been there first
    write_json(path, result)
    print_nested(curve, nested, task_loaded.name, len(pairs))
    typer.echo(f"\nsaved    {path}")
    words = words_of({"--model": model, "--counterfactual": counterfactual})
    suggest((["discover", task, *words], "what each head does with all others on"))


def validate(
    run: options.RunArgument,
    n: Annotated[
        int | None, pairs_option(MIN_PAIRS, help="judging pairs (default: as many as the run has, at most 100)")
    ] = None,
    seeds: Annotated[int, whole_option(least=0, most=1000, help="how often the search is made on other pairs")] = 3,
    as_json: Annotated[bool, flag("--json", "print the card as JSON")] = False,
) -> None:
    """Ask of a run's circuit what a sceptic would, and keep the answers with the run.

    Is it faithful, complete, stable, specific to its task, and the only one? Random circuits stand beside it.
    """
    from interp.cli.app import workbench_of
    from interp.files import check_writable, request_of
    from interp.progress import bar
    from interp.report.page import write_report
    from interp.report.validity import COLUMNS, card_rows, card_summary
    from interp.runs.folder import REPORT, RESULT, VALIDITY
    from interp.runs.run import Run
    from interp.runs.validate import validate as validated

    loaded, request = Run.load(run), request_of(run / RESULT)
    check_writable(run / VALIDITY, "RUN")
    card = loaded.validity = validated(loaded, folder=run, n=n, seeds=seeds, stage=bar)
    if request_of(run / RESULT) != request:
        raise InputError(f"RUN {run}: another run lies there by now, so its card is not kept")
    path = loaded.save_validity(run)
    report = write_report(run) if (run / REPORT).is_file() else None
    if as_json:
        typer.echo(card.model_dump_json())
        return
    console = plain_console()
    console.print(card_summary(card))
    console.print(table(COLUMNS, card_rows(card)))
    for why in card.left_out:
        console.print(why)
    typer.echo(f"\nsaved    {path}")
    if report is not None:
        typer.echo(f"report   {report}")
    suggest((workbench_of(run), "the same in the browser, on the page Circuit"))


def show_program(
    run: options.RunArgument,
    judge: Annotated[bool, flag("--judge", "run the controls first, and keep them with the run: some minutes")] = False,
    as_json: Annotated[bool, flag("--json", "print it as JSON")] = False,
    device: options.DeviceOption = None,
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
) -> None:
    """Print a run's program: which head says what at which role, and what setting it does to the answer.

    --judge asks more of it: does a variable that is set give the answer that the task then expects? Beside the codes:
    random codes, class means, whole outputs, other heads, and a learned rotation.
    """
    from interp.runs.run import Run

    placement, _ = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, None, device)
    if not judge and (device is not None or not placement.serial):
        name = "--device" if placement.serial else "--workers"
        raise InputError(f"{name} needs --judge: nothing else is computed")
    loaded = Run.load(run)
    if loaded.program is None:
        raise InputError(f"{run} has no program: it was found with --no-program, so run interp discover again")
    if judge:
        from interp.files import check_writable, request_of
        from interp.progress import bar
        from interp.report.page import write_report
        from interp.runs.folder import REPORT, RESULT, save_judged
        from interp.runs.judge import judge_program

        check_writable(run / RESULT, "RUN")
        request = request_of(run / RESULT)
        loaded.program = judge_program(loaded, folder=run, device=device, workers=placement, stage=bar)
        if request_of(run / RESULT) != request:
            raise InputError(f"RUN {run}: another run lies there by now, so its controls are not kept")
        save_judged(loaded, run)
        if (run / REPORT).is_file():
            write_report(run)
    program = loaded.program
    text = f"{program.summary()}\n\n{program.text()}"
    typer.echo(program.model_dump_json(indent=1) if as_json else text)
    if not (judge or as_json) and program.interchange and program.interchange[0].flipped_random is None:
        suggest((["program", str(run), "--judge"], "controls, and how often the expected answer comes"))


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, or one of interp why --out")],
    out: Annotated[Path | None, option("FILE", "JSON file to write (default: RUN-graph.json)")] = None,
    overwrite: options.OverwriteOption = False,
    layout: Annotated[
        Literal["eap-ig", "mib", "circuit-tracer"],
        option(
            "LAYOUT",
            "eap-ig (what EAP-IG writes now), mib (older, that of the circuits MIB ships) or circuit-tracer (the "
            "program, or an explanation of interp why, for that viewer)",
        ),
    ] = "eap-ig",
    helpful: Annotated[
        Literal["positive", "negative"],
        option("SIGN", "the sign of what helps: positive (EAP-IG's scripts) or negative (the circuits MIB ships)"),
    ] = "positive",
) -> None:
    """Write a run as the graph JSON that EAP-IG and the MIB benchmark read, or that circuit-tracer's viewer shows.

    The first two have an MLP in every layer; those of a model without MLPs are in it, and stand for nothing.
    """
    from interp.circuits.graph_json import write_graph
    from interp.files import check_file, unused
    from interp.runs.run import Run

    path = out or unused(options.named(run).with_name(f"{options.named(run).name}-graph.json"))
    check_file(path, "--out", overwrite=overwrite)
    if layout == "circuit-tracer":
        if helpful != "positive":
            raise InputError("--helpful is of the other layouts: circuit-tracer's weights are signed logits")
        from interp.contrast.explanation import RESULT, Why
        from interp.report import circuit_tracer

        if (run / RESULT).is_file():
            graph = circuit_tracer.why_graph(Why.load(run), path.stem)
        else:
            graph = circuit_tracer.program_graph(Run.load(run), path.stem)
        circuit_tracer.write(graph, path)
        typer.echo(f"saved    {path}    # {len(graph['nodes'])} nodes, {len(graph['links'])} links")
        typer.echo(f"next     circuit-tracer start-server --graph_file_dir {path.parent}")
        return
    loaded = Run.load(run)
    shape = {name: getattr(loaded.provenance.model, name) for name in ("d_model", "parallel_attn_mlp")}
    write_graph(loaded.circuit, path, layout=layout, helpful=helpful, **shape)
    typer.echo(f"saved    {path}    # {len(loaded.members)} members, {len(loaded.edges)} scored edges")


def discover(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="ioi, greater-than, docstring, a prompt file, module:Class")
    ],
    model: options.ModelOption = None,
    method: Annotated[
        str,
        option("METHOD", "adaptive-patching, attribution, overlap, patching, … (interp methods), or file.py:function"),
    ] = "adaptive-patching",
    n: options.PairsOption = None,
    seed: options.SeedOption = 0,
    counterfactual: options.CounterfactualOption = None,
    candidates: Annotated[int, whole_option(help="best-scored components checked by activation patching")] = CANDIDATES,
    threshold: Annotated[float, share_option(help="share of the clean–corrupt gap that makes a member")] = THRESHOLD,
    mlps: Annotated[bool, flag("--mlps", "let MLPs be members too")] = False,
    bos: options.BosOption = True,
    reference: Annotated[
        Path | None, option("FILE", "judge the scores by this file from interp reference, too")
    ] = None,
    set_: Annotated[
        list[str], option("KEY=VALUE", "a method's option (interp methods METHOD has them); repeatable", "--set")
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, option("DIR", "run folder (default: runs/TASK-METHOD; -2, -3, … beside runs of another request)")
    ] = None,
    json_file: options.JsonOption = None,
    program: Annotated[
        bool, flag("--program/--no-program", "also find out what the members say, on some 600 more pairs")
    ] = True,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: Annotated[
        int | None, whole_option(help="pairs per forward pass (default: the method's, mostly 16)")
    ] = None,
) -> None:
    """Find the circuit that does TASK, check it by activation patching, and write a run with its report."""
    from interp.cli.render import print_members
    from interp.files import write_text
    from interp.models import load_model, parse_device
    from interp.progress import bar
    from interp.runs.discover import CircuitSearch, default_model, run_search
    from interp.runs.folder import RESULT, check_destination, free_folder

    search = CircuitSearch(
        task,
        method=method,
        n=n,
        seed=seed,
        counterfactual=counterfactual,
        config=options.key_values(set_),
        candidates=candidates,
        threshold=threshold,
        mlps=mlps,
        bos=bos,
        reference=reference,
        batch_size=batch_size,
        program=program,
    )
    parse_device(device)
    spec = default_model(search.task) if model is None else model
    request, name = search.request(spec, dtype), search.task.name
    folder = out or free_folder(options.default_folder(name, model, method), request)
    check_destination(folder, request, overwrite=overwrite)
    to_stdout = str(json_file) == "-"
    options.check_json(json_file, request, overwrite=overwrite)
    if json_file is not None and not to_stdout and json_file.absolute().is_relative_to(folder.absolute()):
        raise InputError(f"--json {json_file}: it would lie in the run's folder, which holds run.json anyway")
    run = run_search(search, load_model(spec, device=device, dtype=dtype), stage=bar)
    replaced = (folder / RESULT).is_file()
    page = run.report()
    try:
        run.save(folder, report=page, overwrite=overwrite)
    except InputError:  # another search was there first: beside it, so that neither is lost
        folder, replaced = run.save_new(folder.parent, folder.name, report=page), False
    if to_stdout:
        typer.echo(run.model_dump_json())
        return
    if json_file is not None:
        write_text(json_file, run.model_dump_json(indent=1) + "\n")
    print_members(run)
    if run.program is not None:
        typer.echo(f"\n{run.program.summary()}")
    note = "  (replaces the earlier run there)" if replaced else ""
    typer.echo(f"\nreport   {folder / 'report.html'}{note}")
    prompts = {"--model": model, "--n": n, "--seed": seed or None, "--counterfactual": counterfactual}
    check = {
        "--candidates": None if candidates == CANDIDATES else candidates,
        "--threshold": None if threshold == THRESHOLD else threshold,
        "--reference": reference,
    }
    loaded_as = {"--device": device, "--dtype": None if dtype == "float32" else dtype}
    words = words_of(prompts | check | loaded_as)
    words += ["--mlps"] * mlps + ["--no-bos"] * (not bos) + ["--no-program"] * (not program)
    other = "nap-ig" if method == "attribution" else "attribution"
    other_folder = free_folder(options.default_folder(name, model, other), request | {"method": other})
    show = ["tasks", "show", task, *words_of(prompts | loaded_as)]
    suggest(
        (["discover", task, *words, "--method", other], "the same by another method"),
        (["compare", str(folder), str(other_folder)], "then both side by side"),
        (show, "the prompts, and how the model scores on them"),
    )
