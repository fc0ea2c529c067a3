"""``interp discover``: from a task's name to a run with its report.

``interp program``: what the members say.

``interp export``: a run's circuit for other tools.

``interp grow``: nested circuits that do a task by themselves.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp import CANDIDATES, MIN_PAIRS, MOST_PAIRS, THRESHOLD
from interp.cli.options import (
    BatchOption,
    BosOption,
    CounterfactualOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    OverwriteOption,
    PairsOption,
    SeedOption,
    default_folder,
    key_values,
    named,
    share_option,
    whole_option,
)
from interp.cli.terminal import suggest, words_of
from interp.errors import InputError


def grow(
    task: Annotated[str, typer.Argument(metavar="TASK", help="as of interp discover")],
    model: ModelOption = None,
    n: PairsOption = None,
    held_out: Annotated[
        int, whole_option("--held-out", least=MIN_PAIRS, most=MOST_PAIRS, help="other pairs, to run them on")
    ] = 20,
    seed: SeedOption = 0,
    counterfactual: CounterfactualOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to write (default: runs/TASK-grown.json)")
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
) -> None:
    """Grow circuits that do TASK with all other heads off, and run them on prompts they have not seen.

    Another question than interp discover's, which asks what each head does with all others on. Up to 32 pairs are used.
    """
    from interp.files import check_file, unused, write_json
    from interp.prompts.sampling import check_counterfactual
    from interp.runs.discover import default_model
    from interp.tasks import load_task

    wanted = load_task(task)
    check_counterfactual(wanted, counterfactual)
    path = out or unused(Path(f"{default_folder(wanted.name, model, 'grown')}.json"))
    request = {
        "task": task,
        "model": default_model(wanted) if model is None else model,
        "n": n,
        "held_out": held_out,
        "seed": seed,
        "counterfactual": counterfactual,
    }
    check_file(path, "--out", request=request, overwrite=overwrite)

    from dataclasses import asdict

    from interp.activations.stream import HUNDREDTHS, check_context
    from interp.circuits.verify import check_known_gap
    from interp.cli.render_nested import print_grown
    from interp.evaluation.ablation import Ablator
    from interp.evaluation.nested_circuits import n_circuits, run_grown
    from interp.models import describe_model, load_model, parse_device
    from interp.progress import bar
    from interp.prompts.sampling import held_out_pairs, sample_pairs
    from interp.scores.adaptive_patching.nested import MOST_PAIRS, NestedCircuitsConfig, nested_circuits

    parse_device(device)
    loaded = load_model(default_model(wanted) if model is None else model, device=device, dtype=dtype)
    most = min(wanted.default_n, MOST_PAIRS)
    asked = None if n is None else min(n, MOST_PAIRS)
    if asked is None:  # of a task that has few, some have to be left
        there = len(sample_pairs(wanted, loaded.tokenizer, None, most + held_out, seed, counterfactual))
        asked = min(most, max(there - held_out, min(there // 2, there - MIN_PAIRS), 2))
    pairs = sample_pairs(wanted, loaded.tokenizer, asked, most, seed, counterfactual)
    check_context(loaded, pairs)
    others = held_out_pairs(wanted, loaded.tokenizer, held_out, pairs, counterfactual)
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
        growth = nested_circuits(loaded, pairs, config, progress=advance)
    with bar("circuits alone", n_circuits(growth) * len(others)) as advance:
        curve = run_grown(growth, ablator, seed=seed, progress=advance)
    result = {
        "request": request,
        "model": describe_model(loaded),
        "prompts": pairs.provenance(),
        "held_out": others.provenance(),
        "growth": {"config": growth.config, "cost": asdict(growth.cost), "heads": growth.heads.tolist()},
        **asdict(curve),
    }
    path = path if out else unused(path)  # another process may have been there first
    write_json(path, result)
    print_grown(curve, growth, wanted.name, len(pairs))
    typer.echo(f"\nsaved    {path}")
    same = words_of({"--model": model, "--counterfactual": counterfactual})
    suggest((["discover", task, *same], "what each head does with all others on"))


def show_program(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Print a run's program: which head says what at which role, and what setting it does to the answer."""
    from interp.runs.run import Run

    found = Run.load(run)
    if found.program is None:
        raise InputError(
            f"{run} has no program: it was found with --no-program, so run interp discover again"
        )
    typer.echo(found.program.model_dump_json(indent=1) if as_json else found.program.text())


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to write (default: RUN-graph.json)")
    ] = None,
    overwrite: OverwriteOption = False,
    layout: Annotated[
        Literal["eap-ig", "mib"],
        typer.Option(
            metavar="LAYOUT",
            help="eap-ig (what EAP-IG writes now) or mib (older, that of the circuits MIB ships)",
        ),
    ] = "eap-ig",
    helpful: Annotated[
        Literal["positive", "negative"],
        typer.Option(
            metavar="SIGN",
            help="the sign of what helps: positive (EAP-IG's scripts) or negative (the circuits MIB ships)",
        ),
    ] = "positive",
) -> None:
    """Write a run's circuit as the graph JSON that EAP-IG and the MIB benchmark read.

    The format has an MLP in every layer; those of a model without MLPs are in it, and stand for nothing.
    """
    from interp.circuits.graph_json import write_graph
    from interp.files import check_file, unused
    from interp.runs.run import Run

    found = Run.load(run)
    path = out or unused(named(run).with_name(f"{named(run).name}-graph.json"))
    check_file(path, "--out", overwrite=overwrite)
    shape = found.provenance.model
    write_graph(
        found.circuit,
        path,
        d_model=shape.d_model,
        parallel_attn_mlp=shape.parallel_attn_mlp,
        layout=layout,
        helpful=helpful,
    )
    typer.echo(f"saved    {path}    # {len(found.members)} members, {len(found.edges)} scored edges")


def discover(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="ioi, greater-than, docstring, a prompt file, module:Class")
    ],
    model: ModelOption = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="adaptive-patching, attribution, overlap, patching, … (interp methods), or file.py:function",
        ),
    ] = "adaptive-patching",
    n: PairsOption = None,
    seed: SeedOption = 0,
    counterfactual: CounterfactualOption = None,
    candidates: Annotated[
        int,
        whole_option("--candidates", least=1, help="best-scored components checked by activation patching"),
    ] = CANDIDATES,
    threshold: Annotated[
        float, share_option(help="share of the clean–corrupt gap that makes a member")
    ] = THRESHOLD,
    mlps: Annotated[bool, typer.Option("--mlps", help="let MLPs be members too")] = False,
    bos: BosOption = True,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="judge the scores by this file from interp reference, too"),
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="a method's option (interp methods METHOD has them); repeatable",
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="run folder (default: runs/TASK-METHOD; -2, -3, … beside runs of another request)",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write the result here; - for stdout")
    ] = None,
    program: Annotated[
        bool,
        typer.Option(
            "--program/--no-program", help="also find out what the members say, on some 700 more pairs"
        ),
    ] = True,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: Annotated[
        int | None,
        whole_option(
            "--batch-size", least=1, help="pairs per forward pass (default: the method's, mostly 16)"
        ),
    ] = None,
) -> None:
    """Find the circuit that does TASK, check it by activation patching, and write a run with its report."""
    from interp.cli.render import print_members, print_next
    from interp.files import check_file, write_text
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
        config=key_values(set_),
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
    asked, name = search.request(spec, dtype), search.task.name
    folder = out or free_folder(default_folder(name, model, method), asked)
    check_destination(folder, asked, overwrite=overwrite)
    to_stdout = str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_file(json_file, "--json", request=asked, overwrite=overwrite)
        if json_file.absolute().is_relative_to(folder.absolute()):
            raise InputError(
                f"--json {json_file}: it would lie in the run's folder, which holds run.json anyway"
            )
    found = run_search(search, load_model(spec, device=device, dtype=dtype), stage=bar)
    replaced = (folder / RESULT).is_file()
    page = found.report()
    try:
        found.save(folder, report=page, overwrite=overwrite)
    except InputError:  # another search was there first: beside it, so that neither is lost
        folder, replaced = found.save_new(folder.parent, folder.name, report=page), False
    if to_stdout:
        typer.echo(found.model_dump_json())
        return
    if json_file is not None:
        write_text(json_file, found.model_dump_json(indent=1) + "\n")
    print_members(found)
    if found.program is not None:
        typer.echo(f"\n{found.program.text()}\n")
    other = next(name for name in ("attribution", "nap-ig") if name != method)
    given = {
        "--model": model,
        "--n": n,
        "--seed": seed or None,
        "--counterfactual": counterfactual,
        "--candidates": None if candidates == CANDIDATES else candidates,
        "--threshold": None if threshold == THRESHOLD else threshold,
        "--reference": reference,
        "--device": device,
        "--dtype": None if dtype == "float32" else dtype,
    }
    prompts = ("--model", "--n", "--seed", "--counterfactual", "--device", "--dtype")
    shown = words_of({key: given[key] for key in prompts})
    same = words_of(given) + ["--mlps"] * mlps + ["--no-bos"] * (not bos) + ["--no-program"] * (not program)
    other_folder = free_folder(default_folder(name, model, other), asked | {"method": other})
    print_next(folder, task, same, shown, other, other_folder, replaced=replaced)
