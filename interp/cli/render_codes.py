"""What the command line prints of codes: codebooks and their quality, an index's hits, steered texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from interp import codesearch
from interp.bottlenecks.edits import WeightedCode, code_name, format_codes
from interp.cli.terminal import plain_console, table
from interp.evaluation.steering import distinct_2, perplexity
from interp.report import wording
from interp.stats import wilson
from interp.steering.code_set import CodeSet, FoundCode
from interp.steering.continuations import Continuation
from interp.steering.request import SteeringRequest
from interp.steering.topics import holds_word

_BLANK = str.maketrans("\n\t\r", "   ")


def print_index(index: codesearch.CodeIndex) -> None:
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


CLEAREST = 10  # codes that are listed once they have names


def print_labels(labels: codesearch.Labels) -> None:
    """How many codes have a name, by site, and the clearest."""
    console = plain_console()
    names = ("site", "codes", "named", "F1 ≥ .5", "F1 ≥ .8", "random ≥ .5", "random ≥ .8")
    sites = ((site, n, *(f"{share:.1%}" for share in shares)) for site, (n, *shares) in labels.shares().items())
    console.print(table(names, sites, left=("site",), no_wrap=True))
    for book, code in labels.clearest(CLEAREST):
        if label := labels.of(book, code):
            line = f"{labels.name(book, code):<12} F1 {label.f1:.2f}  {wording.code_label(labels, book, code)}"
            console.print(Text(line), soft_wrap=True)


def print_scores(
    scores: codesearch.CodeScores,
    best: Sequence[codesearch.CodeHit],
    labels: codesearch.Labels | None,
    elsewhere: Mapping[str, Sequence[codesearch.CodeHit]],
) -> None:
    """A row a code; ``elsewhere`` has the same codes on other texts."""
    console = plain_console()
    console.print(f"{scores.matches.n} matches of {scores.n_tokens} tokens")
    if not best:
        if scores.matches.n:
            console.print("no code fires there" if not scores.hits.any() else "no code is that good: ask for less")
        return
    hits = (
        (
            wording.code_title(labels, hit.book, hit.code),
            _share(hit.precision, hit.precision_interval),
            _share(hit.recall, hit.recall_interval),
            f"{hit.f1:.2f}",
            hit.count,
            hit.hits,
            *(f"{other.f1:.2f}" for other in others),
            Text(wording.code_label(labels, hit.book, hit.code)),
        )
        for hit, *others in zip(best, *elsewhere.values(), strict=True)
    )
    names = ["code", "precision [95 %]", "recall [95 %]", "F1", "tokens", "in matches"]
    names += [*(f"F1, {name}" for name in elsewhere), "label"]
    console.print(table(names, hits, left=("code", "label"), no_wrap=True))


def print_similar(index: codesearch.CodeIndex, similar: Sequence[codesearch.Similar]) -> None:
    console = plain_console()
    if not similar:
        console.print("no context shares a code")
    for hit in similar:
        line = Text(f"{hit.score:.2f} {hit.shared:>5} codes  ")
        console.print(line + _line(codesearch.context_at(index, hit.token)), soft_wrap=True)


def print_explanations(
    explained: Mapping[str, codesearch.Explanation], labels: codesearch.Labels | None, codes: Sequence[tuple[str, int]]
) -> None:
    rows = []
    for (name, explanation), code in zip(explained.items(), dict.fromkeys(codes), strict=True):
        scores = ("" if value is None else f"{value:.2f}" for value in (explanation.f1, explanation.null))
        text = Text(wording.visible(explanation.text, keep=" "))
        rows.append((name, text, *scores, Text(wording.code_label(labels, *code))))
    names = ("code", "explanation", "F1", "other's", "label")
    plain_console().print(table(names, rows, left=("code", "explanation", "label"), no_wrap=True))


def print_page(
    page: codesearch.CodePage, labels: codesearch.Labels | None, explanations: Mapping[str, codesearch.Explanation]
) -> None:
    console = plain_console()
    name = code_name(page.book, page.code)
    title = wording.code_title(labels, page.book, page.code)
    console.print(
        f"{title}  {page.count} of {page.n_tokens} tokens ({page.frequency:.2%}), {page.n_documents} documents"
    )
    if labels is not None and (label := labels.of(page.book, page.code)) is not None:
        scores = f"precision {label.precision:.2f}, recall {label.recall:.2f}, F1 {label.f1:.2f}"
        text = wording.code_label(labels, page.book, page.code)
        console.print(Text(f"label    {text}   ({scores} on held-out text)"), soft_wrap=True)
        for side in wording.code_sides(labels, page.book, page.code):
            console.print(Text(f"         {side}"), soft_wrap=True)
    if explanation := explanations.get(name):
        console.print(Text(f"{explanation.model} says {wording.explanation(explanation)}"), soft_wrap=True)
    lists = {
        "tokens": [f"{wording.token(token.text)} {token.precision:.0%}" for token in page.tokens],
        "nearest": [f"{other.code} ({other.cosine:.2f})" for other in page.neighbours or ()],
        "with": [f"{wording.code_title(labels, c.book, c.code)} ({c.share:.0%}, ×{c.lift:.1f})" for c in page.related],
    }
    for title, entries in lists.items():
        if entries:
            console.print(f"{title:<9}{', '.join(entries)}", soft_wrap=True)
    console.print("margin  similarity")
    for context in page.contexts:
        line = Text(f"{context.margin:6.2f} {context.similarity:6.2f}   ")
        console.print(line + _line(context), soft_wrap=True)


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _line(context: codesearch.CodeContext) -> Text:
    """The context in one line, the token itself reversed."""
    line = Text()
    for i, piece in enumerate(context.pieces):
        style = "reverse" if i == context.focus else ("underline" if context.active[i] else "")
        shown = wording.visible(piece) if i == context.focus else wording.visible(piece.translate(_BLANK), " ")
        line.append(shown or " ", style=style)
    return line


FLUENCY = {"perplexity": ".1f", "distinct_2": ".2f"}
SHOWN = 12  # codes that are listed; the Python below names all of them


def print_found(code_set: CodeSet, used: Sequence[WeightedCode], labels: codesearch.Labels | None) -> None:
    """The first of the codes that are used, with how well they tell the held-out texts apart."""
    console, listed = plain_console(), code_set.listed(used)
    console.print(
        f"{len(listed)} codes by {code_set.by}, of {len(code_set)}; "
        f"{code_set.n_positive} texts with it, {code_set.n_negative} without; "
        "precision, recall and q: of the half of the texts that judges what the other half chose"
    )
    judged = ("prec.", "recall", "token prec.", "recall", "q")
    names = ("site", "code", "weight", "effect", *judged, "label")
    rows = (_found(code, labels) for code in listed[:SHOWN])
    console.print(table(names, rows, left=("site", "label"), no_wrap=True))
    if len(listed) > SHOWN:
        console.print(f"and {len(listed) - SHOWN} more")


def print_side_by_side(texts: Mapping[str, Sequence[Continuation]]) -> None:
    """Each prompt's texts by name in columns, with the perplexity of what was added."""
    console = plain_console()
    columns = Table(expand=True, show_lines=True)
    for name in texts:
        columns.add_column(name, ratio=1)
    for row in zip(*texts.values(), strict=True):
        columns.add_row(*map(_shown, row))
    console.print()
    console.print(columns)
    console.print("perplexity of the new tokens under the model without steering")


def print_rates(texts: Mapping[str, Sequence[Continuation]], words: Sequence[str]) -> None:
    """Of each condition the fraction of texts with one of the words, and what that costs in fluency."""
    rows = []
    for name, rates in rates_of(texts, words).items():
        share = [f"{rates['rate']:.0%} [{rates['low']:.0%}, {rates['high']:.0%}]"] if words else []
        fluent = ["–" if rates[key] is None else f"{rates[key]:{form}}" for key, form in FLUENCY.items()]
        rows.append((name, rates["n"], *share, *fluent))
    names = ("", "texts", *(["with a word [95 %]"] if words else []), "perplexity", "distinct-2")
    console = plain_console()
    console.print()
    console.print(table(names, rows, left=("",), no_wrap=True))
    if words:
        console.print(f"words: {', '.join(words)}; a rate says nothing without its perplexity and distinct-2")


def rates_of(texts: Mapping[str, Sequence[Continuation]], words: Sequence[str]) -> dict[str, dict]:
    """Number of texts, perplexity and distinct-2 of each condition; with words the rate, Wilson's 95 % interval."""
    rates: dict[str, dict] = {}
    for name, continued in texts.items():
        rates[name] = {
            "n": len(continued),
            "perplexity": perplexity(continued) if any(text.tokens for text in continued) else None,
            "distinct_2": distinct_2([text.text for text in continued]),
        }
        if words:
            hits = sum(holds_word(text.text, words) for text in continued)
            low, high = wilson(hits, len(continued))
            rates[name] |= {"rate": hits / len(continued), "low": low, "high": high}
    return rates


def as_json(
    texts: Mapping[str, Sequence[Continuation]],
    codes: Mapping[str, Sequence[WeightedCode]],
    words: Sequence[str],
    request: SteeringRequest,
) -> dict:
    """What ``--json`` writes; texts and codes are by condition."""
    return {
        "settings": {key: value for key, value in asdict(request).items() if key != "codes"},
        "codes": {name: format_codes(changed) for name, changed in codes.items()},
        "words": list(words),
        "rates": rates_of(texts, words),
        "texts": {
            name: [{key: getattr(text, key) for key in ("prompt", "text", "perplexity")} for text in continued]
            for name, continued in texts.items()
        },
    }


def _found(code: FoundCode, labels: codesearch.Labels | None) -> list[str | Text]:
    judged = ["–"] * 5
    if (verdict := code.verdict) is not None:
        of_texts = (verdict.precision, verdict.recall, verdict.token_precision, verdict.token_recall)
        judged = ["–" if share is None else f"{share:.0%}" for share in of_texts]
        judged.append(f"{verdict.q_value:.2g}")
    effect = "–" if code.effect is None else f"{code.effect:+.3f}"
    label = Text(wording.code_effect(labels, code.site, code.code))
    return [code.site, str(code.code), f"{code.weight:.3g}", effect, *judged, label]


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
        names = ("", "CE", "increase [95 %]", "KL", "top-1", "agree", "blocks")
        console.print(table(names, map(_condition, text["rows"]), left=("",), no_wrap=True))
        for k, usage in text["usage"].items():
            console.print(_usage_line(k, usage), soft_wrap=True)
    console.print("\nCE and KL in nats per token; increase over the same blocks of the plain model")


def _short(sites: list[str]) -> str:
    return " ".join(sites) if len(sites) <= 6 else f"{sites[0]} … {sites[-1]}"


def _condition(row: dict) -> tuple[object, ...]:
    increase = f"{row['ce_increase']:+.3f} [{row['ce_increase_low']:+.2f}, {row['ce_increase_high']:+.2f}]"
    beside_plain = (increase, f"{row['kl']:.2f}", f"{row['agreement']:.0%}")
    increase, kl, agreement = ("", "", "") if row["condition"] == "plain" else beside_plain
    ce, accuracy = f"{row['ce']:.3f}", f"{row['accuracy']:.0%}"
    return row["condition"], ce, increase, kl, accuracy, agreement, row["n_blocks"]


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
