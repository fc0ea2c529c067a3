"""What the command line prints of results: tables for people, drawn with rich, data from the stages below.

What ``interp codebook eval`` prints.

What ``interp steer`` prints.

What ``interp index`` prints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from interp.bottlenecks.edits import WeightedCode, code_name, format_codes
from interp.circuits.exact_effects import ExactEffects
from interp.circuits.references import Reference, load_reference, reference_names
from interp.circuits.roles import role_name
from interp.cli.terminal import plain_console, suggest
from interp.codesearch import CodeHit, CodeIndex, CodePage, CodeScores, Context, Similar, context_at
from interp.evaluation.nested_circuits import NestedCurve
from interp.evaluation.recovery import roc_auc
from interp.evaluation.steering import distinct_2, perplexity
from interp.models import Model
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.report import wording
from interp.runs.run import Run
from interp.scores.adaptive_patching.nested import NestedCircuits
from interp.scores.baselines import layer_prior
from interp.stats import wilson
from interp.steering.code_set import CodeSet, FoundCode
from interp.steering.continuations import Continuation
from interp.steering.request import SteeringRequest
from interp.steering.topics import holds_word

_BLANK = str.maketrans("\n\t\r", "   ")


def print_index(index: CodeIndex) -> None:
    console, manifest = plain_console(), index.manifest
    ids = index.layout.n_ids
    read = "plain model" if manifest["error_term"] else "model with every codebook in place"
    lines = {
        "model": manifest["model"]["spec"],
        "text": f"{index.n_tokens} tokens of {manifest['text']['spec']} ({manifest['text']['split']}), "
        f"{len(index.corpus.documents)} documents, blocks of {manifest['context']}",
        "books": f"{len(index.books)}, {index.layout.n_codes} codes, {index.layout.n_slots} a token, of the {read}",
        "unused": f"{int((index.counts == 0).sum())} codes never occur",
        "size": f"{index.n_bytes / 1e6:.1f} MB, {index.n_bytes / ids:.2f} bytes per id",
    }
    for name, value in lines.items():
        console.print(f"{name:<8} {value}", soft_wrap=True)


def print_scores(scores: CodeScores, best: Sequence[CodeHit]) -> None:
    console = plain_console()
    console.print(f"{scores.matches.n} matches of {scores.n_tokens} tokens")
    if not best:
        if scores.matches.n:
            console.print(
                "no code fires there" if not scores.hits.any() else "no code is that good: ask for less"
            )
        return
    table = Table(box=None, padding=(0, 1))
    for name in ("code", "precision [95 %]", "recall [95 %]", "F1", "tokens", "in matches"):
        table.add_column(name, justify="left" if name == "code" else "right", no_wrap=True)
    for hit in best:
        table.add_row(
            code_name(hit.book, hit.code),
            _share(hit.precision, hit.precision_interval),
            _share(hit.recall, hit.recall_interval),
            f"{hit.f1:.2f}",
            str(hit.count),
            str(hit.hits),
        )
    console.print(table)


def print_similar(index: CodeIndex, found: Sequence[Similar]) -> None:
    console = plain_console()
    if not found:
        console.print("no context shares a code")
    for similar in found:
        line = Text(f"{similar.score:.2f} {similar.shared:>5} codes  ")
        console.print(line + _line(context_at(index, similar.token)), soft_wrap=True)


def print_page(page: CodePage) -> None:
    console = plain_console()
    console.print(
        f"{code_name(page.book, page.code)}  {page.count} of {page.n_tokens} tokens ({page.frequency:.2%}), "
        f"{page.n_documents} documents"
    )
    if page.tokens:
        shown = (f"{wording.token(t.text)} {t.precision:.0%}" for t in page.tokens)
        console.print("tokens   " + ", ".join(shown), soft_wrap=True)
    if page.neighbours:
        shown = (f"{one.code} ({one.cosine:.2f})" for one in page.neighbours)
        console.print("nearest  " + ", ".join(shown), soft_wrap=True)
    if page.related:
        shown = (
            f"{code_name(one.book, one.code)} ({one.share:.0%}, ×{one.lift:.1f})" for one in page.related
        )
        console.print("with     " + ", ".join(shown), soft_wrap=True)
    console.print("margin  similarity")
    for context in page.contexts:
        line = Text(f"{context.margin:6.2f} {context.similarity:6.2f}   ")
        console.print(line + _line(context), soft_wrap=True)


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _line(context: Context) -> Text:
    """The context in one line, the token itself reversed."""
    line = Text()
    for i, piece in enumerate(context.pieces):
        style = "reverse" if i == context.focus else ("underline" if context.active[i] else "")
        shown = (
            wording.visible(piece) if i == context.focus else wording.visible(piece.translate(_BLANK), " ")
        )
        line.append(shown or " ", style=style)
    return line


FLUENCY = {"perplexity": ".1f", "distinct_2": ".2f"}
SHOWN = 12
"""Codes that are listed; the Python below names all of them."""


def print_found(found: CodeSet, used: Sequence[WeightedCode]) -> None:
    """The first of the codes that are used, with how well they tell the held-out texts apart."""
    console, listed = plain_console(), found.listed(used)
    console.print(
        f"{len(listed)} codes by {found.by}, of {len(found)}; "
        f"{found.n_positive} texts with it, {found.n_negative} without; "
        "precision, recall and q: of the half of the texts that judges what the other half chose"
    )
    table = Table(box=None, padding=(0, 1))
    for name in (
        "site",
        "code",
        "weight",
        "effect",
        "prec.",
        "recall",
        "token prec.",
        "recall",
        "q",
    ):
        table.add_column(name, justify="left" if name == "site" else "right", no_wrap=True)
    for code in listed[:SHOWN]:
        table.add_row(*_cells(code))
    console.print(table)
    if len(listed) > SHOWN:
        console.print(f"and {len(listed) - SHOWN} more")


def print_side_by_side(texts: Mapping[str, Sequence[Continuation]]) -> None:
    """Each prompt's texts by name in columns, with the perplexity of what was added."""
    console = plain_console()
    table = Table(expand=True, show_lines=True)
    for name in texts:
        table.add_column(name, ratio=1)
    for row in zip(*texts.values(), strict=True):
        table.add_row(*map(_shown, row))
    console.print()
    console.print(table)
    console.print("perplexity of the new tokens under the model without steering")


def print_rates(texts: Mapping[str, Sequence[Continuation]], words: Sequence[str]) -> None:
    """Of each condition the fraction of texts with one of the words, and what that costs in fluency."""
    table = Table(box=None, padding=(0, 1))
    for name in ("", "texts", *(["with a word [95 %]"] if words else []), "perplexity", "distinct-2"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, rates in rates_of(texts, words).items():
        held = [f"{rates['rate']:.0%} [{rates['low']:.0%}, {rates['high']:.0%}]"] if words else []
        fluent = ["–" if rates[key] is None else f"{rates[key]:{form}}" for key, form in FLUENCY.items()]
        table.add_row(name, str(rates["n"]), *held, *fluent)
    console = plain_console()
    console.print()
    console.print(table)
    if words:
        console.print(f"words: {', '.join(words)}; a rate says nothing without its perplexity and distinct-2")


def rates_of(texts: Mapping[str, Sequence[Continuation]], words: Sequence[str]) -> dict[str, dict]:
    """Number of texts, perplexity and distinct-2 of each condition; with words the rate, Wilson's 95 % interval."""
    found: dict[str, dict] = {}
    for name, own in texts.items():
        found[name] = {
            "n": len(own),
            "perplexity": perplexity(own) if any(text.tokens for text in own) else None,
            "distinct_2": distinct_2([text.text for text in own]),
        }
        if words:
            held = sum(holds_word(text.text, words) for text in own)
            low, high = wilson(held, len(own))
            found[name] |= {"rate": held / len(own), "low": low, "high": high}
    return found


def as_json(
    texts: Mapping[str, Sequence[Continuation]],
    codes: Mapping[str, Sequence[WeightedCode]],
    words: Sequence[str],
    request: SteeringRequest,
) -> dict:
    """What ``--json`` writes; texts and codes are by condition."""
    return {
        "settings": {key: value for key, value in asdict(request).items() if key != "codes"},
        "codes": {name: format_codes(own) for name, own in codes.items()},
        "words": list(words),
        "rates": rates_of(texts, words),
        "texts": {
            name: [{"prompt": one.prompt, "text": one.text, "perplexity": one.perplexity} for one in own]
            for name, own in texts.items()
        },
    }


def _cells(code: FoundCode) -> list[str]:
    verdict = code.verdict
    return [
        code.site,
        str(code.code),
        f"{code.weight:.3g}",
        "–" if code.effect is None else f"{code.effect:+.3f}",
        *(
            ("–",) * 5
            if verdict is None
            else (
                _share_of_texts(verdict.precision),
                _share_of_texts(verdict.recall),
                _share_of_texts(verdict.token_precision),
                _share_of_texts(verdict.token_recall),
                f"{verdict.q_value:.2g}",
            )
        ),
    ]


def _share_of_texts(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _shown(text: Continuation) -> Text:
    surprise = "ended at once" if text.perplexity is None else f"perplexity {text.perplexity:.1f}"
    return Text.assemble((text.prompt, "dim"), text.text, "\n\n", (surprise, "dim"))


def print_quality(result: dict) -> None:
    """One table per text: the model plain, through its codes, and through the controls."""
    console = plain_console()
    fit, fitted_on = result["fit"], result["fitted_on"]
    console.print(
        f"{len(result['sites'])} codebooks of {fit['n_codes']} codes at {_short(result['sites'])} of "
        f"{result['model']['spec']}, {fit['selection']} selection, magnitude {fit['magnitude']}, "
        f"fitted on {fitted_on['n_tokens']} tokens of {fitted_on['spec']}"
    )
    for text in result["texts"]:
        console.print(f"\nheld-out {text['spec']}: {text['n_blocks']} blocks of {text['context']} tokens")
        table = Table(box=None, padding=(0, 1))
        table.add_column("", no_wrap=True)
        for name in ("CE", "increase [95 %]", "KL", "top-1", "agree", "blocks"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in text["rows"]:
            plain = row["condition"] == "plain"
            table.add_row(
                row["condition"],
                f"{row['ce']:.3f}",
                "" if plain else _increase(row),
                "" if plain else f"{row['kl']:.2f}",
                f"{row['accuracy']:.0%}",
                "" if plain else f"{row['agreement']:.0%}",
                str(row["n_blocks"]),
            )
        console.print(table)
        for k, usage in text["usage"].items():
            console.print(_usage_line(k, usage), soft_wrap=True)
    console.print("\nCE and KL in nats per token; increase over the same blocks of the plain model")


def _short(sites: list[str]) -> str:
    return " ".join(sites) if len(sites) <= 6 else f"{sites[0]} … {sites[-1]}"


def _increase(row: dict) -> str:
    return f"{row['ce_increase']:+.3f} [{row['ce_increase_low']:+.2f}, {row['ce_increase_high']:+.2f}]"


def _usage_line(k: str, usage: dict) -> str:
    parts = (
        f"variance explained {usage['variance_explained_mean']:.2f} on average, "
        f"{usage['variance_explained_min']:.2f} at worst, positive in "
        f"{round(usage['variance_explained_positive'] * usage['n_groups'])} of {usage['n_groups']}",
        f"dead codes {usage['dead_on_text']:.0%} here, {usage['dead_when_fitted']:.0%} when fitted",
        f"{usage['bits_per_token']:.0f} bits a token of {usage['bits_per_token_most']:.0f} "
        f"(entropy {usage['entropy_bits']:.2f} a slot)",
        f"{usage['active_codes']:.2f} different codes a vector",
    )
    return f"k={k}: " + "; ".join(parts)


REFERENCE_ROWS = 20
GROWN_SHOWN = 8


def print_members(run: Run) -> None:
    """The circuit as a table, and how the scores compare with the references there are."""
    result, console = run.result, plain_console()
    gap = result["metric"]["clean"] - result["metric"]["corrupt"]
    pairs = result.get("provenance", {}).get("pairs", {})
    # what other tasks drop are words, of which they have enough
    dropped = pairs.get("dropped", {}) if pairs.get("counterfactual") == "file" else {}
    causes = ", ".join(f"{count} dropped for their {cause}" for cause, count in dropped.items())
    console.print(
        f"{result['task']} on {result['model']} by {result['method']}: {result['metric']['name']} "
        f"{_plain(result['metric']['clean'])} clean, {_plain(result['metric']['corrupt'])} corrupt, "
        f"{result['n_pairs']} pairs{f' ({causes})' if causes else ''}, universe {result['universe']}"
    )
    table = Table("member", "looks like", box=None, padding=(0, 1))
    for name in ("score", "effect", "95 % interval", "of the gap"):
        table.add_column(name, justify="right")
    for part in run.members:
        table.add_row(
            part["site"],
            role_name(part.get("roles", {})),
            f"{part['score']:+.3g}",
            f"{part['effect']:+.3f}",
            f"[{part['effect_low']:+.3f}, {part['effect_high']:+.3f}]",
            f"{part['effect'] / gap:+.1%}",
        )
    if run.members:
        console.print(table)
    inside = len(run.members)
    checked = sum(part["effect"] is not None for part in (*result["heads"], *result["mlps"]))
    console.print(f"{inside} members of {checked} checked, {len(result['edges'])} edges scored among them")
    for why in result.get("left_out", []):
        console.print(why)
    universe = len(result["heads"]) + (len(result["mlps"]) if "mlps" in result["universe"] else 0)
    if inside == checked < universe:
        console.print(f"all that were checked are members, so there may be more: --candidates {2 * checked}")
    if proposed := result.get("proposed"):
        console.print(
            f"before the check, at {proposed['false_discovery_rate']:.0%} false discoveries: "
            f"{len(proposed['heads'])} heads, {len(run.proposed_members)} of them members"
        )
    for name, found in result["recovery"].items():
        console.print(recovery_line(name, found))
        if shared := wording.shared_pairs(found, result["n_pairs"]):
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


def print_grown(curve: NestedCurve, growth: NestedCircuits, task: str, n_pairs: int) -> None:
    """Grown circuits by size: what they have on held-out prompts beside what growth expects and random heads have."""
    console = plain_console()
    table = Table(box=None, padding=(0, 1))
    for name in ("heads", "of the gap", "95 % interval", "expected", "random heads"):
        table.add_column(name, justify="right")
    table.add_column("joined")
    for circuit in curve.circuits:
        interval = circuit.interval
        table.add_row(
            str(circuit.size),
            f"{circuit.share:.2f}",
            f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "",
            f"{circuit.expected:.2f}",
            f"{circuit.random:.2f}",
            " ".join(circuit.joined[:GROWN_SHOWN]) + (" …" if len(circuit.joined) > GROWN_SHOWN else ""),
        )
    console.print(
        f"{task}: grown on {n_pairs} pairs ({growth.cost.forwards / n_pairs:.0f} forward passes a pair), "
        f"all other heads off, on {curve.n_pairs} held-out pairs"
    )
    console.print(table)
    console.print(f"CMD {curve.cmd:.3f} (area between the circuits and the model, all sizes; 0 is best)")


def _plain(value: float) -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def recovery_line(name: str, found: dict) -> str:
    """One reference's ROC AUC with interval, average precision and Spearman, beside the nulls."""
    interval = found["interval"]
    return (
        f"against {name}: ROC AUC {_number(found['roc_auc'])}"
        + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
        + f", average precision {_number(found['average_precision'])}, Spearman {_number(found['spearman'])}"
        + f" ({found['n_positive']} of {found['n_heads']} heads; nulls: {_nulls(found['nulls'])})"
    )


def _nulls(nulls: dict) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3f}" for key, value in nulls.items() if value is not None
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def print_references() -> None:
    """Every reference by name."""
    table = Table("reference", "model", "heads", "source", box=None, padding=(0, 1))
    for name in reference_names():
        found = load_reference(name)
        measured = isinstance(found, ExactEffects)
        source = f"measured, {found.n_pairs} pairs" if measured else found.citation
        table.add_row(name, found.model, str(int(found.members().sum())), source)
    plain_console().print(table)


def print_reference(reference: Reference | ExactEffects) -> None:
    """A published circuit by role; or a measurement's largest effects and how many heads pass each threshold."""
    if isinstance(reference, Reference):
        _print_published(reference)
    else:
        _print_measured(reference)


def _print_published(reference: Reference) -> None:
    table = Table("role", "heads", box=None, padding=(0, 1))
    for role, sites in reference.roles().items():
        table.add_row(role, " ".join(sites))
    console = plain_console()
    console.print(
        Text(f"{reference.name}: {reference.task} on {reference.model}, {len(reference.heads)} heads")
    )
    console.print(table)
    console.print(Text(reference.citation))
    if reference.note:
        console.print(Text(reference.note))


def _print_measured(measured: ExactEffects) -> None:
    effects = measured.effects()
    table = Table("head", box=None, padding=(0, 1))
    table.add_column("effect", justify="right")
    table.add_column("of the gap", justify="right")
    order = abs(effects).ravel().argsort()[::-1][:REFERENCE_ROWS]
    for index in order:
        layer, head = divmod(int(index), measured.n_heads)
        effect = effects[layer, head]
        table.add_row(f"a{layer}.h{head}", f"{effect:+.3f}", f"{effect / measured.gap:+.1%}")
    console = plain_console()
    console.print(Text(f"{measured.name}: the {len(order)} largest effects, {measured.n_pairs} pairs"))
    console.print(table)
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


def print_comparison(comparison) -> None:
    """Two runs side by side."""
    console = plain_console()
    table = Table(box=None, padding=(0, 1))
    for row in comparison.rows():
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


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
        table = Table(
            "method", title=f"mean over tasks: {group}", title_justify="left", box=None, padding=(0, 1)
        )
        for title in ("pairs", "tasks", *shown.values(), "forwards", f"AP minus {result['plan']['against']}"):
            table.add_column(title, justify="right")
        for row in rows:
            numbers = ["–" if row[key] is None else f"{row[key]:.3f}" for key in shown]
            forwards = "–" if row["forwards"] is None else f"{row['forwards']:,.0f}"
            compared = pooled.get((group, row["method"], row["n"]))
            tasks = f"{row['tasks']}/{row['of_tasks']}"
            table.add_row(row["method"], str(row["n"]), tasks, *numbers, forwards, _compared(compared))
        console.print(table)
    for row in result["skipped"]:
        console.print(Text(f"left out: {row['method']} on {row['task']}, {row['model']}: {row['why']}"))


def _compared(row: dict | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['difference']:+.3f}{interval}"
