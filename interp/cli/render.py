"""What the command line prints of circuits: tables for people, drawn with rich, data from the stages below."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from interp.circuits.references import ExactEffects, Reference, load_reference, reference_names
from interp.circuits.roles import role_name
from interp.cli.terminal import plain_console, suggest, table
from interp.evaluation.recovery import Nulls, Recovery, roc_auc
from interp.models import Model
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.report import wording
from interp.runs.run import Run
from interp.scores.baselines import layer_prior

if TYPE_CHECKING:  # no discovery needs it
    from interp.report.compare import Comparison

REFERENCE_ROWS = 20


def print_members(run: Run) -> None:
    """The circuit as a table, and how the scores compare with the references there are."""
    console, metric, pairs = plain_console(), run.metric, run.provenance.pairs
    # what other tasks drop are words, of which they have enough
    dropped = pairs.dropped if pairs.counterfactual == "file" else {}
    causes = ", ".join(f"{count} dropped for their {cause}" for cause, count in dropped.items())
    console.print(
        f"{run.task} on {run.model} by {run.method}: {metric.name} {metric.clean:z.2f} clean, "
        f"{metric.corrupt:z.2f} corrupt, {run.n_pairs} pairs{f' ({causes})' if causes else ''}, "
        f"universe {run.universe}"
    )
    names = ("member", "looks like", "score", "effect", "95 % interval", "of the gap")
    members = table(*names, left=names[:2])
    for part in run.members:
        members.add_row(
            part.site,
            role_name(part.roles),
            f"{part.score:+.3g}",
            f"{part.effect:+.3f}",
            f"[{part.low:+.3f}, {part.high:+.3f}]",
            f"{(part.effect or 0.0) / metric.gap:+.1%}",
        )
    if run.members:
        console.print(members)
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
    for name, found in run.recovery.items():
        console.print(recovery_line(name, found))
        if shared := wording.shared_pairs(found, run.n_pairs):
            console.print(f"  {shared}")


def print_next(
    folder: Path,
    task: str,
    same: list[str],
    shown: list[str],
    other: str,
    other_folder: Path,
    *,
    replaced: bool,
) -> None:
    """Where the run lies, and what can be done next as commands to copy.

    Args:
        same: the options by which another method is judged alike on the same pairs and model.
        shown: those of them by which the same prompts are shown.
        other: that method.
    """
    note = "  (replaces the earlier run there)" if replaced else ""
    plain_console().print(f"\nreport   {folder / 'report.html'}{note}", soft_wrap=True)
    suggest(
        (["discover", task, *same, "--method", other], "the same by another method"),
        (["compare", str(folder), str(other_folder)], "then both side by side"),
        (["tasks", "show", task, *shown], "the prompts, and how the model scores on them"),
    )


def recovery_line(name: str, found: Recovery) -> str:
    """One reference's ROC AUC with interval, average precision and Spearman, beside the nulls."""
    interval = found.interval
    return (
        f"against {name}: ROC AUC {_number(found.roc_auc)}"
        + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
        + f", average precision {_number(found.average_precision)}, Spearman {_number(found.spearman)}"
        + f" ({found.n_positive} of {found.n_heads} heads; nulls: {_nulls(found.nulls)})"
    )


def _nulls(nulls: Nulls) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3f}" for key, value in vars(nulls).items() if value is not None
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def print_references() -> None:
    """Every reference by name."""
    rows = Table("reference", "model", "heads", "source", box=None)
    for name in reference_names():
        found = load_reference(name)
        source = f"measured, {found.n_pairs} pairs" if isinstance(found, ExactEffects) else found.citation
        rows.add_row(name, found.model, str(int(found.members().sum())), source)
    plain_console().print(rows)


def print_reference(reference: Reference | ExactEffects) -> None:
    """A published circuit by role; or a measurement's largest effects and how many heads pass each threshold."""
    if isinstance(reference, Reference):
        _print_published(reference)
    else:
        _print_measured(reference)


def _print_published(reference: Reference) -> None:
    rows, console = Table("role", "heads", box=None), plain_console()
    for role, sites in reference.roles().items():
        rows.add_row(role, " ".join(sites))
    console.print(f"{reference.name}: {reference.task} on {reference.model}, {len(reference.heads)} heads")
    console.print(rows)
    console.print(reference.citation)
    if reference.note:
        console.print(reference.note)


def _print_measured(measured: ExactEffects) -> None:
    effects = measured.effects()
    heads = table("head", "effect", "of the gap", left=("head",))
    order = abs(effects).ravel().argsort()[::-1][:REFERENCE_ROWS]
    for index in order:
        layer, head = divmod(int(index), measured.n_heads)
        effect = effects[layer, head]
        heads.add_row(f"a{layer}.h{head}", f"{effect:+.3f}", f"{effect / measured.gap:+.1%}")
    console = plain_console()
    console.print(f"{measured.name}: the {len(order)} largest effects, {measured.n_pairs} pairs")
    console.print(heads)
    counts = ", ".join(f"{measured.members(t).sum()} at {t:.0%}" for t in (0.02, 0.05, 0.10))
    console.print(f"heads with |effect| above a share of the gap {measured.gap:.3f}: {counts}")
    layer_index = roc_auc(layer_prior(*effects.shape).ravel(), measured.members().ravel())
    console.print(f"layer index alone: ROC AUC {_number(layer_index)}")


def print_examples(model: Model, pairs: PromptPairs, examples: int, batch_size: int) -> None:
    """Some pairs with their roles marked, then the score over all of them."""
    from interp.activations.stream import MetricConsumer, feed

    console = plain_console()
    for pair in pairs[:examples]:
        for side, tokens in (("clean  ", pair.clean_tokens), ("corrupt", pair.corrupt_tokens)):
            console.print(Text(side + " ").append_text(_marked(model, pair, tokens)), soft_wrap=True)
        answers, wrong = (
            " ".join(repr(model.tokenizer.decode([i])) for i in ids[:6]) + (" …" if len(ids) > 6 else "")
            for ids in (pair.answers, pair.wrong_answers)
        )
        console.print(Text(f"answer  {answers}   wrong {wrong}\n"))
    scorer = MetricConsumer(len(pairs))
    feed(model, pairs, [scorer], batch_size=batch_size)
    for side, values in zip(("clean", "corrupt"), scorer.metric_, strict=True):
        console.print(
            f"{pairs.metric} on {side:<7} {values.mean():+.3f}, right (above 0) on {(values > 0).mean():.0%} "
            f"of {len(pairs)} prompts"
        )
    console.print(
        f"counterfactual {pairs.counterfactual}, seed {pairs.seed}, BOS {'yes' if pairs.bos else 'no'}"
    )
    for kind, count in pairs.dropped.items():
        console.print(f"dropped for this tokenizer: {count} {kind}")
    for note in pairs.notes:
        console.print(f"note: {note}")


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


def print_comparison(comparison: "Comparison") -> None:
    """Two runs side by side."""
    rows = Table(box=None)
    for row in comparison.rows():
        rows.add_row(*row)
    plain_console().print(rows)


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
        methods = table(*names, left=("method",), title=title, title_justify="left")
        for row in rows:
            numbers = ["–" if row[key] is None else f"{row[key]:.3f}" for key in shown]
            forwards = "–" if row["forwards"] is None else f"{row['forwards']:,.0f}"
            compared = pooled.get((group, row["method"], row["n"]))
            tasks = f"{row['tasks']}/{row['of_tasks']}"
            methods.add_row(
                wording.method_name(row["method"]),
                str(row["n"]),
                tasks,
                *numbers,
                forwards,
                _compared(compared),
            )
        console.print(methods)
    for row in result["skipped"]:
        console.print(f"left out: {row['method']} on {row['task']}, {row['model']}: {row['why']}")


def _compared(row: dict | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['difference']:+.3f}{interval}"
