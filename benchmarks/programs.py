"""What heads say: the program of every task's circuit, and how much of the circuit it explains.

    python -m benchmarks.programs [TASK …] [--model smollm2-135m-instruct] [--n 100] [--seed 0] [--show]

One file a task in ``results/programs``; those that are there are kept. A member counts as *explained* where its codes
carry 90 % of its effect on held-out prompts at every role where it acts, where splicing its own codes costs at most
10 %, and where they take 8 bits or less in all. The cost is told in units of the bare forwards of the discovery's
pairs, both prompts, timed in the same process.
"""

import json
from pathlib import Path

from benchmarks.common import RESULTS, arguments, bare, print_table
from interp import DEFAULT_MODEL, find_circuit, load_model, load_task
from interp.files import write_json
from interp.programs.schema import SlotCodes
from interp.progress import bar

OUT = RESULTS / "programs"
TASKS = ("ioi", "greater-than", "docstring", "agreement", "pronoun", "successor", "capital", "antonym")
MOST_BITS = 8


def main() -> None:
    given = arguments(__doc__, {"tasks": TASKS}, model=DEFAULT_MODEL, n=100, seed=0, show=False)
    model = None
    for name in given.tasks:
        path = OUT / f"{Path(given.model).stem}--{name}--{given.seed}.json"
        if not path.exists() and not given.show:
            model = model or load_model(given.model)
            run = find_circuit(model, name, n=given.n, seed=given.seed, program=True, stage=bar)
            pairs = load_task(name).sample(model.tokenizer, run.n_pairs, given.seed)
            effects = {part.site: part.effect for part in run.members}
            seconds = {"program": run.seconds["program"], "bare": bare(model, pairs)}
            kept = run.model_dump()
            found = {key: kept[key] for key in ("program", "transitions", "interchange", "program_details")}
            for said in found["program"]:
                for key in ("examples", "shares", "values"):
                    del said[key]
            write_json(path, {"members": effects, "gap": run.metric.gap, "seconds": seconds, **found})
        if path.exists():
            _print(name, json.loads(path.read_text()))


def _print(name: str, found: dict) -> None:
    by_site: dict[str, list[SlotCodes]] = {}
    for one in found["program"]:
        by_site.setdefault(one["site"], []).append(SlotCodes.model_validate_json(json.dumps(one)))
    effects = found["members"]
    explained = [
        site
        for site, said in by_site.items()
        if all(one.enough for one in said) and sum(one.bits for one in said) <= MOST_BITS
    ]
    whole = sum(map(abs, effects.values()))
    share = sum(abs(effects[site]) for site in explained) / whole
    seconds = found["seconds"]
    rows = []
    for site in sorted(by_site, key=lambda site: -abs(effects[site])):
        for said in by_site[site]:
            shares = [None if v is None else f"{v:.2f}" for v in (said.effect_kept, said.reconstruction_cost)]
            named = [None if v is None else f"{v:.2f}" for v in (said.ami, said.ami_null, said.accuracy)]
            row = [site, said.role, said.variable, f"{said.effect:+.2f}", said.codes, f"{said.bits:.1f}"]
            rows.append((*row, *shares, *named))
    columns = ("effect", "codes", "bits", "carried", "own cost", "AMI", "null", "right")
    title = f"{name}: {len(explained)} of {len(effects)} members, {share:.0%} of the summed |effect|"
    print_table(("head", "role", "says", *columns), rows, title, left=3)
    for one in found["interchange"]:
        hows = ("own", "random", "heads", "codes", "means")
        # no other head is free where all of a layer tell the variable
        known = [(how, one[f"flipped_{how}"]) for how in hows if one[f"flipped_{how}"] is not None]
        controls = ", ".join(f"{how} {value:.0%}" for how, value in known)
        print(
            f"{one['variable']} at {len(one['sites'])} slots: metric {one['metric_clean']:.2f} → "
            f"{one['metric_set']:.2f} (own {one['metric_own']:.2f}), answers "
            f"changed {one['flipped']:.0%} ({controls}), n = {one['n']}"
        )
        if "off_target" in one:  # some programs are older
            print(
                f"    off-target KL {one['off_target']:.3f} "
                f"(means {one['off_target_means']:.3f}, codes {one['off_target_codes']:.3f})"
            )
    forwards = found["program_details"]["forwards"]
    print(
        f"cost: {forwards:,.0f} forwards of one prompt, {seconds['program']:.0f} s, "
        f"{seconds['program'] / seconds['bare']:.1f} times the bare forwards ({seconds['bare']:.1f} s)\n"
    )


if __name__ == "__main__":
    main()
