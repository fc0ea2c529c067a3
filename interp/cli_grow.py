"""``interp grow``: nested circuits that do a task by themselves."""

from pathlib import Path
from typing import Annotated

import typer

from interp.defaults import MIN_PAIRS
from interp.options import (
    BatchOption,
    CounterfactualOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    PairsOption,
    SeedOption,
    default_folder,
    source_file,
    whole_option,
)
from interp.tasks.errors import InputError
from interp.terminal import suggest


def grow(
    task: Annotated[str, typer.Argument(metavar="TASK", help="as of interp discover")],
    model: ModelOption = None,
    n: PairsOption = None,
    held_out: Annotated[
        int, whole_option("--held-out", least=MIN_PAIRS, help="other pairs that the circuits are run on")
    ] = 20,
    seed: SeedOption = 0,
    counterfactual: CounterfactualOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to write (default: runs/TASK-grown.json)")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
) -> None:
    """Grow circuits that do TASK with all other heads off, and run them on prompts they have not seen.

    Another question than interp discover's, which asks what each head does with all others on. Up to 32 pairs are used.
    """
    from interp.discovery import default_model
    from interp.files import check_file, unused, write_json
    from interp.tasks import load_task
    from interp.tasks.sampling import check_counterfactual

    wanted = load_task(task)
    check_counterfactual(wanted, counterfactual)
    path = out or unused(Path(f"{default_folder(wanted.name, model, 'grown')}.json"))
    check_file(path, "--out", read=(source_file(task), model))

    from dataclasses import asdict

    from interp.activations.stream import check_context
    from interp.console import print_grown
    from interp.evaluation.ablation import Ablator
    from interp.evaluation.gap import check_known_gap
    from interp.evaluation.grown import n_circuits, run_grown
    from interp.models import describe_model, load_model, parse_device, parse_dtype
    from interp.progress import bar
    from interp.scores.growth import MOST_PAIRS, GrowthConfig
    from interp.scores.growth import grow as grown
    from interp.tasks.holdout import held_out_pairs
    from interp.tasks.sampling import sample_pairs

    parse_device(device), parse_dtype(dtype)
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
    config = GrowthConfig(batch_size=batch_size)
    n_heads = loaded.cfg.n_layers * loaded.cfg.n_heads
    with bar("growing", config.steps(n_heads, len(pairs))) as advance:
        growth = grown(loaded, pairs, config, progress=advance)
    with bar("circuits alone", n_circuits(growth) * len(others)) as advance:
        curve = run_grown(growth, ablator, seed=seed, progress=advance)
    result = {
        "model": describe_model(loaded),
        "prompts": pairs.provenance(),
        "held_out": others.provenance(),
        "growth": {"config": growth.config, "cost": asdict(growth.cost), "heads": growth.heads.tolist()},
        **curve.to_json(),
    }
    write_json(path, result)
    print_grown(curve, growth, wanted.name, len(pairs))
    typer.echo(f"\nsaved    {path}")
    named = [] if model is None else ["--model", model]
    named += [] if counterfactual is None else ["--counterfactual", counterfactual]
    suggest((["discover", task, *named], "what each head does with all others on"))
