"""What ``interp index`` prints."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from interp.codesearch import CodeHit, CodeIndex, CodePage, CodeScores, Context, Similar, context_at
from interp.report import wording
from interp.terminal import plain_console

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
            f"{hit.book}:{hit.code}",
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
        f"{page.book}:{page.code}  {page.count} of {page.n_tokens} tokens ({page.frequency:.2%}), "
        f"{page.n_documents} documents"
    )
    if page.tokens:
        shown = (f"{wording.token(t.text)} {t.precision:.0%}" for t in page.tokens)
        console.print("tokens   " + ", ".join(shown), soft_wrap=True)
    if page.neighbours:
        shown = (f"{one.code} ({one.cosine:.2f})" for one in page.neighbours)
        console.print("nearest  " + ", ".join(shown), soft_wrap=True)
    if page.related:
        shown = (f"{one.book}:{one.code} ({one.share:.0%}, ×{one.lift:.1f})" for one in page.related)
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
