"""What the command line prints of codes: codebooks and their quality, an index's hits, steered texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from interp.bottlenecks.edits import WeightedCode, code_name, format_codes
from interp.cli.terminal import plain_console, table
from interp.codesearch import (
    CodeHit,
    CodeIndex,
    CodePage,
    CodeScores,
    Context,
    Explanation,
    Labels,
    Similar,
    context_at,
)
from interp.evaluation.steering import distinct_2, perplexity
from interp.report import wording
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


CLEAREST = 10
"""Codes that are listed once they have names."""


def print_labels(labels: Labels) -> None:
    """How many codes have a name, by site, and the clearest."""
    console = plain_console()
    names = ("site", "codes", "named", "F1 ≥ .5", "F1 ≥ .8", "random ≥ .5", "random ≥ .8")
    sites = table(*names, left=("site",), no_wrap=True)
    for site, (n, *shares) in labels.shares().items():
        sites.add_row(site, str(n), *(f"{share:.1%}" for share in shares))
    console.print(sites)
    for book, code in labels.clearest(CLEAREST):
        if label := labels.of(book, code):
            line = f"{code_name(book, code):<12} F1 {label.f1:.2f}  {wording.code_label(labels, book, code)}"
            console.print(Text(line), soft_wrap=True)


def print_scores(
    scores: CodeScores,
    best: Sequence[CodeHit],
    labels: Labels | None = None,
    elsewhere: Mapping[str, Sequence[CodeHit]] = MappingProxyType({}),
) -> None:
    """A row a code; ``elsewhere`` has the same codes on other texts."""
    console = plain_console()
    console.print(f"{scores.matches.n} matches of {scores.n_tokens} tokens")
    if not best:
        if scores.matches.n:
            console.print(
                "no code fires there" if not scores.hits.any() else "no code is that good: ask for less"
            )
        return
    names = ("code", "precision [95 %]", "recall [95 %]", "F1", "tokens", "in matches")
    hits = table(
        *names, *(f"F1, {name}" for name in elsewhere), "label", left=("code", "label"), no_wrap=True
    )
    for hit, *others in zip(best, *elsewhere.values(), strict=True):
        hits.add_row(
            code_name(hit.book, hit.code),
            _share(hit.precision, hit.precision_interval),
            _share(hit.recall, hit.recall_interval),
            f"{hit.f1:.2f}",
            str(hit.count),
            str(hit.hits),
            *(f"{other.f1:.2f}" for other in others),
            Text(wording.code_label(labels, hit.book, hit.code)),
        )
    console.print(hits)


def print_similar(index: CodeIndex, found: Sequence[Similar]) -> None:
    console = plain_console()
    if not found:
        console.print("no context shares a code")
    for similar in found:
        line = Text(f"{similar.score:.2f} {similar.shared:>5} codes  ")
        console.print(line + _line(context_at(index, similar.token)), soft_wrap=True)


def print_explanations(
    found: Mapping[str, Explanation], labels: Labels | None, codes: Sequence[tuple[str, int]]
) -> None:
    names = ("code", "explanation", "F1", "other's", "label")
    rows = table(*names, left=("code", "explanation", "label"), no_wrap=True)
    for name, code in zip(found, dict.fromkeys(codes), strict=True):
        one = found[name]
        scores = ("" if value is None else f"{value:.2f}" for value in (one.f1, one.null))
        rows.add_row(
            name, Text(wording.visible(one.text, keep=" ")), *scores, Text(wording.code_label(labels, *code))
        )
    plain_console().print(rows)


def print_page(
    page: CodePage, labels: Labels | None, explanations: Mapping[str, Explanation] = MappingProxyType({})
) -> None:
    console = plain_console()
    console.print(
        f"{code_name(page.book, page.code)}  {page.count} of {page.n_tokens} tokens ({page.frequency:.2%}), "
        f"{page.n_documents} documents"
    )
    if labels is not None and (label := labels.of(page.book, page.code)) is not None:
        told = (
            f"precision {label.precision:.2f}, recall {label.recall:.2f}, F1 {label.f1:.2f} on held-out text"
        )
        line = Text(f"label    {wording.code_label(labels, page.book, page.code)}   ({told})")
        console.print(line, soft_wrap=True)
    if one := explanations.get(code_name(page.book, page.code)):
        console.print(Text(f"{one.model} says {wording.explanation(one)}"), soft_wrap=True)
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


def print_found(found: CodeSet, used: Sequence[WeightedCode], labels: Labels | None = None) -> None:
    """The first of the codes that are used, with how well they tell the held-out texts apart."""
    console, listed = plain_console(), found.listed(used)
    console.print(
        f"{len(listed)} codes by {found.by}, of {len(found)}; "
        f"{found.n_positive} texts with it, {found.n_negative} without; "
        "precision, recall and q: of the half of the texts that judges what the other half chose"
    )
    judged = ("prec.", "recall", "token prec.", "recall", "q")
    names = ("site", "code", "weight", "effect", *judged, "label")
    codes = table(*names, left=("site", "label"), no_wrap=True)
    for code in listed[:SHOWN]:
        codes.add_row(*_cells(code), Text(wording.code_label(labels, code.site, code.code)))
    console.print(codes)
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
    names = ("", "texts", *(["with a word [95 %]"] if words else []), "perplexity", "distinct-2")
    conditions = table(*names, left=("",), no_wrap=True)
    for name, rates in rates_of(texts, words).items():
        held = [f"{rates['rate']:.0%} [{rates['low']:.0%}, {rates['high']:.0%}]"] if words else []
        fluent = ["–" if rates[key] is None else f"{rates[key]:{form}}" for key, form in FLUENCY.items()]
        conditions.add_row(name, str(rates["n"]), *held, *fluent)
    console = plain_console()
    console.print()
    console.print(conditions)
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
    judged = ["–"] * 5
    if (verdict := code.verdict) is not None:
        of_texts = (verdict.precision, verdict.recall, verdict.token_precision, verdict.token_recall)
        judged = ["–" if share is None else f"{share:.0%}" for share in of_texts]
        judged.append(f"{verdict.q_value:.2g}")
    return [
        code.site,
        str(code.code),
        f"{code.weight:.3g}",
        "–" if code.effect is None else f"{code.effect:+.3f}",
        *judged,
    ]


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
        conditions = table(*names, left=("",), no_wrap=True)
        for row in text["rows"]:
            plain = row["condition"] == "plain"
            conditions.add_row(
                row["condition"],
                f"{row['ce']:.3f}",
                "" if plain else _increase(row),
                "" if plain else f"{row['kl']:.2f}",
                f"{row['accuracy']:.0%}",
                "" if plain else f"{row['agreement']:.0%}",
                str(row["n_blocks"]),
            )
        console.print(conditions)
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
