"""What codes of each kind carry of a program's slots, and which answers they change.

    python -m benchmarks.programs_kinds [TASK …]    # half an hour of a core; goes on where it stopped
    python -m benchmarks.programs_kinds --show      # the table in benchmarks/TABLES.md

Slots are the six of largest effect in ``results/programs``, and those at which the task's variable is set. Each kind
is fitted to what stands there on 1,024 pairs, both prompts, and judged on 64 others, by z + c(other prompt) − c(own).
*Explained*: as in ``benchmarks/programs.py``, slots weighted by their effect. *Answers changed*: where all slots of
the variable say what they say on the pair's other prompt.
"""

import contextlib
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.coders import BASELINES, KINDS, new_coder
from benchmarks.common import RESULTS, arguments, kept, print_table
from interp import load_model, load_task
from interp.bottlenecks.kinds.vq import MOST_FLAT_BITS
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models import Model
from interp.programs.codes import ENOUGH, MOST_COST, KeptEffect, kept_by
from interp.programs.slots import Edit, HeadAtRole, SlotRunner, read_slots
from interp.progress import bar
from interp.prompts.sampling import apart

OUT, PROGRAMS = RESULTS / "programs_kinds.json", RESULTS / "programs"
TASKS = ("ioi", "greater-than", "agreement", "pronoun")
BITS = (2, 4, 6, 9, 18, 36)
FIT, JUDGE, SEED, MOST_SLOTS = 1024, 64, 21, 6
WHOLE = "vectors"
"""What stands there on the other prompt, in place of codes."""
Cell = tuple[str, int]


def slots_of(task: str) -> tuple[list[HeadAtRole], list[HeadAtRole]]:
    """Of a kept program: those of largest effect, and those of the variables that change most answers."""
    program = read_json(PROGRAMS / f"smollm2-135m-instruct--{task}--0.json")
    largest = sorted(program["program"], key=lambda slot: -abs(slot["effect"]))[:MOST_SLOTS]
    variable_slots = max(program["interchange"], key=lambda variable: variable["flipped"])["sites"]
    return [HeadAtRole.of(slot["site"], slot["role"]) for slot in largest], [
        HeadAtRole.of(*name.split(" @ ")) for name in variable_slots
    ]


def coded(z: Tensor, fitted: Tensor) -> dict[Cell, Tensor]:
    """What each kind makes of vectors [side, pair, slot, d]; kinds that do not reach a rate are left out."""
    reconstructions: dict[Cell, Tensor] = {(WHOLE, 0): z}
    names = [*KINDS, *(name for name in BASELINES if name != "topk_sae")]
    with bar("fitting kinds", len(BITS) * len(names)) as done:
        for bits, kind in itertools.product(BITS, names):
            with contextlib.suppress(InputError):
                coder = new_coder(kind, bits, z.shape[-1], z.shape[-2], SEED)
                coder.fit(fitted.flatten(0, 1))
                reconstructions[kind, bits] = coder.coded(z)[1].float().detach()
            done(1)
    return reconstructions


def measure(model: Model, task: str) -> dict[str, Any]:
    largest, variable_slots = slots_of(task)
    every = sorted({*largest, *variable_slots})
    pairs = load_task(task).sample(model.tokenizer, FIT + JUDGE, SEED)
    with bar(f"{task}: reading", FIT + JUDGE) as done:
        judging = pairs.subset(range(FIT, FIT + JUDGE))
        fitting = pairs.subset(apart(pairs, judging))
        fitted, _ = read_slots(model, fitting, every, done)
        judge = SlotRunner.of(model, judging, progress=done)
    reconstructions = coded(*(torch.stack([z(slot) for slot in every], -2) for z in (judge.z, fitted.get)))
    decoded = {slot: {cell: z[..., i, :] for cell, z in reconstructions.items()} for i, slot in enumerate(every)}
    cells = list(reconstructions)
    rows = np.arange(JUDGE)
    carried: dict[str, dict[Cell, KeptEffect]] = {}
    with bar(f"{task}: judging", len(largest) + len(cells)) as done:
        for slot in largest:
            its = kept_by(judge, slot, list(decoded[slot].values()), rows)
            carried[str(slot)] = dict(zip(cells, its, strict=True))
            done(1)
        changed = {}
        for cell in cells:
            edits = [
                Edit(slot, judge.z(slot)[0] + c[1] - c[0]) for slot in variable_slots for c in [decoded[slot][cell]]
            ]
            changed[cell] = judge.run(rows, edits).preferred != judge.preferred
            done(1)
    return {
        "slots": {name: float(by[WHOLE, 0].effect.mean()) for name, by in carried.items()},
        "told": [str(slot) for slot in variable_slots],
        "cells": [
            {
                "kind": cell[0],
                "bits": cell[1],
                "carried": [by[cell].effect_kept for by in carried.values()],
                "own_cost": [by[cell].reconstruction_cost for by in carried.values()],
                "changed": changed[cell].astype(int).tolist(),
            }
            for cell in cells
        ],
    }


def show() -> None:
    """Of every task a table, and of all tasks together."""
    results = read_json(OUT)
    tables: dict[str, dict[Cell, tuple[float, np.ndarray]]] = {}
    for task, of in results.items():
        weights = np.abs(list(of["slots"].values()))
        for cell in of["cells"]:
            enough = (np.array(cell["carried"]) >= ENOUGH) & (np.abs(cell["own_cost"]) <= MOST_COST)
            its = float(weights[enough].sum() / weights.sum()), np.array(cell["changed"], dtype=float)
            tables.setdefault(f"{task}, {len(weights)} slots", {})[cell["kind"], cell["bits"]] = its
    cells = list(next(iter(tables.values())))
    each = [[of[cell] for of in tables.values()] for cell in cells]
    mean = {
        cell: (float(np.mean([share for share, _ in its])), np.stack([changed for _, changed in its], 1))
        for cell, its in zip(cells, each, strict=True)
    }
    kinds = list(dict.fromkeys(kind for kind, _ in cells if kind != WHOLE))
    columns = ("kind", *(f"{bits} bits" for bits in BITS))
    for title, of in (tables | {f"all {len(tables)} tasks": mean}).items():
        rows = []
        for kind in kinds:
            its = (of.get((kind, bits)) for bits in BITS)
            rows.append((kind, *(each and f"{each[0]:.2f}, {_share(each[1])}" for each in its)))
        whole = _share(of[WHOLE, 0][1])
        print_table(columns, rows, f"{title}: explained, answers changed; vectors {whole}")
    rows = []
    for kind in kinds:
        row: list[str | None] = [kind]
        for bits in BITS:
            against = ("vq", bits) if kind != "vq" and bits <= MOST_FLAT_BITS else (WHOLE, 0)
            known = (kind, bits) in mean
            row.append(_share(mean[kind, bits][1] - mean[against][1], "+") if known else None)
        rows.append(row)
    title = "all tasks, answers changed, minus k-means of as many bits; its own, and from 18 on, minus vectors"
    print_table(columns, rows, title)


def _share(changed: np.ndarray, sign: str = "") -> str:
    """Of pairs, or the mean over tasks [pair, task], each of whose pairs are drawn by themselves; in per cent."""
    by_task = changed.reshape(len(changed), -1).T
    draws = np.random.default_rng(0).integers(len(changed), size=(2000, *by_task.shape))
    ends = np.quantile(np.take_along_axis(by_task[None], draws, 2).mean((1, 2)), [0.025, 0.975])
    places = 1 if sign else 0
    low, high = (f"{100 * end:{sign}.{places}f}" for end in ends)
    return f"{100 * changed.mean():{sign}.{places}f} [{low}, {high}]"


def main() -> None:
    given = arguments(__doc__, {"tasks": TASKS}, show=False)
    model = None
    for task in given.tasks:
        results = kept(OUT, {})
        if task not in results and not given.show:
            model = model or load_model()
            write_json(OUT, results | {task: measure(model, task)}, indent=None)
    show()


if __name__ == "__main__":
    main()
