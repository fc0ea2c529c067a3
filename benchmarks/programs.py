"""What heads say: the program of every task's circuit, run, and judged.

    python -m benchmarks.programs [TASK …] [--model smollm2-135m-instruct] [--n 100] [--seed 0] [--show]

One file a task in ``results/programs``; those that are there are kept. The cost is told in units of the bare forwards
of the discovery's pairs, both prompts, timed in the same process.
"""

import json
from pathlib import Path

from benchmarks.common import RESULTS, arguments, bare, print_table
from interp import DEFAULT_MODEL, find_circuit, load_model, load_task
from interp.files import write_json
from interp.programs.schema import Executed, Group, Interchange
from interp.progress import bar
from interp.runs.judge import judge_program
from interp.runs.run import Run

OUT = RESULTS / "programs"
TASKS = ("ioi", "greater-than", "agreement", "pronoun", "capital", "successor", "docstring", "antonym")
ACCURACIES = ("accuracy", "accuracy_ceiling", "accuracy_whole", "accuracy_means", "accuracy_rotation", "accuracy_codes")


def record(run: Run, seconds_bare: float | None) -> dict:
    """What is kept of a run whose program was judged."""
    program = run.program
    assert program is not None
    return {
        "members": len(run.members),
        "slots": {
            str(slot_codes.slot): slot_codes.model_dump(
                include={"input", "variable", "codes", "bits", "effect", "enough"}
            )
            for slot_codes in program.slots
        },
        "enough": sum(slot_codes.enough for slot_codes in program.slots),
        "groups": [group.model_dump() for group in program.groups],
        "lines": len(program.lines_that_count()),
        "executed": None if program.executed is None else program.executed.model_dump(),
        "interchange": [entry.model_dump() for entry in program.interchange],
        "seconds": {**run.seconds, "bare": seconds_bare},
        "forwards": {**run.cost, "pairs": run.n_pairs},
    }


def main() -> None:
    given = arguments(__doc__, {"tasks": TASKS}, model=DEFAULT_MODEL, n=100, seed=0, show=False)
    model, kept = None, {}
    for name in given.tasks:
        path = OUT / f"{Path(given.model).stem}--{name}--{given.seed}.json"
        if not path.exists() and not given.show:
            model = model or load_model(given.model)
            run = find_circuit(model, name, n=given.n, seed=given.seed, program=True, stage=bar)
            if run.program is not None and run.program.interchange:
                run.program = judge_program(run, model, stage=bar)
            pairs = load_task(name).sample(model.tokenizer, run.n_pairs, given.seed)
            write_json(path, record(run, bare(model, pairs)))
        if path.exists():
            kept[name] = json.loads(path.read_text())
    executed = []
    for name, program_record in kept.items():
        if program_record["executed"] is None:
            executed.append((name, program_record["members"], len(program_record["slots"])))
            continue
        ran = Executed.model_validate(program_record["executed"])
        alone, live = ran.chained, ran.live
        groups = [Group.model_validate(group) for group in program_record["groups"]]
        bits = sum(group.bits for group in groups if group.input)
        interval = f"{alone.share:.2f} [{alone.low:.2f}, {alone.high:.2f}]"
        row = (
            name,
            program_record["members"],
            f"{program_record['enough']} of {len(program_record['slots'])}",
            program_record["lines"],
            f"{bits:.1f}",
        )
        row += (f"{live.same_answer:.0%}", None if live.r2 is None else f"{live.r2:.2f}", interval)
        row += tuple(f"{value:.2f}" for value in (alone.ceiling, alone.zero_bits, alone.other_prompt))
        executed.append((*row, f"{alone.same_answer:.0%}"))
    columns = ("task", "members", "slots enough", "lines", "bits", "live: same", "R²", "alone: f", "ceiling")
    print_table((*columns, "mean codes", "other prompt", "same"), executed, "programs, run", left=1)
    interchange = []
    for name, program_record in kept.items():
        for entry in map(Interchange.model_validate, program_record["interchange"]):
            shares = (entry.flipped, entry.flipped_own, entry.flipped_random, entry.flipped_codes, entry.flipped_means)
            shares += tuple(getattr(entry, key) for key in (*ACCURACIES, "isolation"))
            shown = (None if share is None else f"{share:.0%}" for share in shares)
            metric = f"{entry.metric_clean:.2f} → {entry.metric_set:.2f}"
            interchange.append((name, entry.variable, len(entry.sites), metric, *shown, entry.n_accuracy))
    columns = ("task", "variable", "slots", "metric", "flipped", "own", "random", "codes", "means")
    columns += ("accuracy", "ceiling", "whole z", "means", "rotation", "random codes", "isolation", "n")
    print_table(columns, interchange, "a variable set", left=2)
    for name, program_record in kept.items():
        seconds = program_record["seconds"]
        if seconds["bare"]:
            stages = ("score", "check", "edges", "program")
            times = ", ".join(f"{stage} {seconds[stage] / seconds['bare']:.1f}" for stage in stages)
            whole = sum(seconds[stage] for stage in stages) / seconds["bare"]
            print(f"{name}: {whole:.1f} times the bare forwards ({times})")


if __name__ == "__main__":
    main()
