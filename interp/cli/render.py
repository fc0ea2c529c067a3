"""What the command line prints of circuits: tables for people, drawn with rich, data from the stages below."""

from typing import TYPE_CHECKING

from rich.text import Text

from interp.circuits.circuit import Component
from interp.circuits.references import ExactEffects, Reference, load_reference, reference_names
from interp.circuits.roles import role_name
from interp.cli.terminal import plain_console, table
from interp.errors import InputError
from interp.evaluation.recovery import Recovery, roc_auc
from interp.models import Model
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.report import wording
from interp.runs.run import Run
from interp.scores.result import layer_prior

if TYPE_CHECKING:  # no discovery needs it
    from interp.evaluation.nested_circuits import NestedCurve
    from interp.scores.adaptive_patching.nested import NestedCircuits

MEMBER_ROWS, REFERENCE_ROWS = 10, 20


def print_members(run: Run) -> None:
    """The circuit's largest members as a table, and how the scores compare with the references there are."""
    console, metric, pairs = plain_console(), run.metric, run.provenance.pairs
    # what other tasks drop are words, of which they have enough
    dropped = pairs.dropped if pairs.counterfactual == "file" else {}
    causes = ", ".join(f"{count} dropped for their {cause}" for cause, count in dropped.items())
    console.print(
        f"{run.task} on {run.model} by {run.method}: {metric.name} {metric.clean:z.2f} clean, "
        f"{metric.corrupt:z.2f} corrupt, {run.n_pairs} pairs{f' ({causes})' if causes else ''}, "
        f"universe {run.universe}"
    )
    if run.members:
        names = ("member", "looks like", "score", "effect", "95 % interval", "of the gap")
        largest = run.members[:MEMBER_ROWS]
        console.print(table(names, (_member(part, metric.gap) for part in largest), left=names[:2]))
    if (more := len(run.members) - MEMBER_ROWS) > 0:
        console.print(f"and {more} more members (report, --json)")
    inside, checked = len(run.members), len(run.checked)
    console.print(f"{inside} members of {checked} checked, {len(run.edges)} edges scored among them")
    for why in run.left_out:
        console.print(why)
    if inside == checked < len(run.ranked):
        console.print(f"all that were checked are members, so there may be more: --candidates {2 * checked}")
    if run.proposed:
        console.print(
            f"before the check, at {run.proposed.false_discovery_rate:.0%} false discoveries: "
            f"{len(run.proposed.heads)} heads, {len(run.proposed_members)} of them members"
        )
    for name, judged in run.recovery.items():
        console.print(_recovery(name, judged))
        if shared := wording.shared_pairs(judged, run.n_pairs):
            console.print(f"  {shared}")


def _member(part: Component, gap: float) -> tuple[str, ...]:
    return (
        part.site,
        role_name(part.roles),
        f"{part.score:+.3g}",
        f"{part.effect:+.3f}",
        f"[{part.low:+.3f}, {part.high:+.3f}]",
        f"{(part.effect or 0.0) / gap:+.1%}",
    )


def _recovery(name: str, judged: Recovery) -> str:
    """ROC AUC with interval, average precision and Spearman, beside the nulls."""
    interval = f" [{judged.interval[0]:.3f}, {judged.interval[1]:.3f}]" if judged.interval else ""
    nulls = judged.nulls
    return (
        f"against {name}: ROC AUC {_number(judged.roc_auc)}{interval}, AP {_number(judged.average_precision)}, "
        f"Spearman {_number(judged.spearman)} ({judged.n_positive} of {judged.n_heads} heads; nulls: random "
        f"{_number(nulls.random_mean)} ± {_number(nulls.random_sd)}, layer index {_number(nulls.layer_index)}, "
        f"layer mean {_number(nulls.layer_mean)})"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def print_references() -> None:
    rows = []
    for reference in map(load_reference, reference_names()):
        source = f"measured, {reference.n_pairs} pairs" if isinstance(reference, ExactEffects) else reference.citation
        rows.append((reference.name, reference.model, int(reference.members().sum()), source))
    plain_console().print(table(("reference", "model", "heads", "source"), rows))


def print_reference(reference: Reference | ExactEffects) -> None:
    """A published circuit by role; or a measurement's largest effects and how many heads pass each threshold."""
    console = plain_console()
    if isinstance(reference, Reference):
        roles = ((role, " ".join(sites)) for role, sites in reference.roles().items())
        console.print(f"{reference.name}: {reference.task} on {reference.model}, {len(reference.heads)} heads")
        console.print(table(("role", "heads"), roles))
        console.print(reference.citation)
        if reference.note:
            console.print(reference.note)
        return
    effects, gap = reference.effects(), reference.gap
    largest = abs(effects).ravel().argsort()[::-1][:REFERENCE_ROWS]
    places = [divmod(int(index), reference.n_heads) for index in largest]
    heads = (
        (f"a{layer}.h{head}", f"{effects[layer, head]:+.3f}", f"{effects[layer, head] / gap:+.1%}")
        for layer, head in places
    )
    console.print(f"{reference.name}: the {len(places)} largest effects, {reference.n_pairs} pairs")
    console.print(table(("head", "effect", "of the gap"), heads, left=("head",)))
    counts = ", ".join(f"{reference.members(t).sum()} at {t:.0%}" for t in (0.02, 0.05, 0.10))
    console.print(f"heads with |effect| above a share of the gap {gap:.3f}: {counts}")
    layer_index = roc_auc(layer_prior(*effects.shape).ravel(), reference.members().ravel())
    console.print(f"layer index alone: ROC AUC {_number(layer_index)}")


def print_examples(model: Model, pairs: PromptPairs, examples: int, batch_size: int) -> None:
    """Some pairs with their roles marked, then the score over all of them."""
    from interp.activations.stream import MetricConsumer, feed
    from interp.circuits.verify import check_does_task

    console = plain_console()
    for pair in pairs[:examples]:
        for side, tokens in (("clean  ", pair.clean_tokens), ("corrupt", pair.corrupt_tokens)):
            console.print(Text(side + " ").append_text(_marked(model, pair, tokens)), soft_wrap=True)
        answers, wrong = (
            " ".join(repr(model.tokenizer.decode([i])) for i in ids[:6]) + (" …" if len(ids) > 6 else "")
            for ids in (pair.answers, pair.wrong_answers)
        )
        console.print(Text(f"answer  {answers}   wrong {wrong}"))
        for side, variables in pair.variables.items():
            line = ", ".join(f"{name} {'–' if value is None else value}" for name, value in variables.items())
            console.print(Text(f"{side:<7} {line}"), soft_wrap=True)
        console.print()
    scorer = MetricConsumer(len(pairs))
    feed(model, pairs, [scorer], batch_size=batch_size)
    for side, values in zip(("clean", "corrupt"), scorer.metric_, strict=True):
        console.print(
            f"{pairs.metric} on {side:<7} {values.mean():+.3f}, right (above 0) on {(values > 0).mean():.0%} "
            f"of {len(pairs)} prompts"
        )
    console.print(f"counterfactual {pairs.counterfactual}, seed {pairs.seed}, BOS {'yes' if pairs.bos else 'no'}")
    for kind, count in pairs.dropped.items():
        console.print(f"dropped for this tokenizer: {count} {kind}")
    notes = list(pairs.notes)
    try:
        if len(pairs) > 1:
            check_does_task(*scorer.metric_)
    except InputError as error:  # which a discovery would end with
        notes.append(str(error))
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


def _marked(model: Model, pair: PromptPair, tokens: tuple[int, ...]) -> Text:
    """Tokens separated by bars, each with the role it plays; what differs between the sides in bold."""
    roles: dict[int, list[str]] = {}
    for role, position in pair.positions.items():
        roles.setdefault(position, []).append(role)
    text = Text()
    for i, token in enumerate(tokens):
        differs = pair.clean_tokens[i] != pair.corrupt_tokens[i]
        shown = model.tokenizer.decode([token]).replace("\n", "\\n")
        text.append(shown, style="bold yellow" if differs else "")
        if i in roles:
            text.append(f"⟨{','.join(roles[i])}⟩", style="cyan")
        text.append("|", style="dim")
    return text


def print_bench(result: dict) -> None:
    """The table of methods: means over the tasks of each group, and methods compared with one of them."""
    console = plain_console()
    if not console.is_terminal:
        console = plain_console(width=120)  # a log need not be squeezed into 80 columns
    columns = {"roc_auc": "AUC", "average_precision": "AP", "edge_roc_auc": "edge AUC", "cmd": "CMD"}
    columns |= {"cpr": "CPR", "jaccard_bootstrap": "Jaccard"}
    pooled = {
        (row["group"], row["method"], row["n"]): row
        for row in result["comparisons"]
        if row["metric"] == "average_precision"
    }
    for group in dict.fromkeys(row["group"] for row in result["groups"]):
        rows = [row for row in result["groups"] if row["group"] == group]
        shown = {key: title for key, title in columns.items() if any(row[key] is not None for row in rows)}
        against = f"AP minus {result['plan']['against']}"
        names = ("method", "pairs", "tasks", *shown.values(), "forwards", against)
        title = f"mean over tasks: {group}"
        lines = []
        for row in rows:
            numbers = ["–" if row[key] is None else f"{row[key]:.3f}" for key in shown]
            forwards = "–" if row["forwards"] is None else f"{row['forwards']:,.0f}"
            compared = _compared(pooled.get((group, row["method"], row["n"])))
            tasks = f"{row['tasks']}/{row['of_tasks']}"
            method = wording.method_name(row["method"])
            lines.append((method, row["n"], tasks, *numbers, forwards, compared))
        console.print(table(names, lines, left=("method",), title=title, title_justify="left"))
    for row in result["skipped"]:
        console.print(f"left out: {row['method']} on {row['task']}, {row['model']}: {row['why']}")


def _compared(row: dict | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['difference']:+.3f}{interval}"


GROWN_SHOWN = 8  # heads that joined a circuit, of which so many are named


def print_nested(curve: "NestedCurve", nested: "NestedCircuits", task: str, n_pairs: int) -> None:
    """Grown circuits by size: what they have on held-out prompts beside what growth expects and random heads have."""
    console = plain_console()
    rows = [
        (
            circuit.size,
            f"{circuit.share:.2f}",
            "[{:.2f}, {:.2f}]".format(*circuit.interval) if circuit.interval else "",
            f"{circuit.expected:.2f}",
            f"{circuit.random:.2f}",
            " ".join(circuit.joined[:GROWN_SHOWN]) + (" …" if len(circuit.joined) > GROWN_SHOWN else ""),
        )
        for circuit in curve.circuits
    ]
    console.print(
        f"{task}: grown on {n_pairs} pairs ({nested.cost.forwards / n_pairs:.0f} forward passes a pair), "
        f"all other heads off, on {curve.n_pairs} held-out pairs"
    )
    names = ("heads", "of the gap", "95 % interval", "expected", "random heads", "joined")
    console.print(table(names, rows, left=("joined",)))
    console.print(f"CMD {curve.cmd:.3f} (area between the circuits and the model, all sizes; 0 is best)")
