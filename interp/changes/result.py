"""What changed between two models: its form in JSON, on disk, and on a page of text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from interp.changes.listing import ChangedCode, ChangedContext, ChangedWord
from interp.changes.parts import ChangedSite, Together
from interp.changes.undo import Undone
from interp.files import read_result, write_json, write_text

RESULT, TEXT = "diff.json", "diff.txt"
FILES = RESULT, TEXT
_CONTEXTS, _WORDS, _SAID, _SITES, _CODES, _WIDTH = 5, 5, 3, 3, 10, 60  # that the page shows


@dataclass(frozen=True)
class Diff:
    """
    Attributes:
        base, tuned, null: specs of the models.
        codebooks: where the codes are from, and whose.
        text: spec of what both read; ``prompts`` is what both continued, with ``base`` and ``tuned`` texts.
        kl: KL(tuned ‖ base) of the next token, in nats, mean over ``n_tokens``.
        contexts: where it is largest, by falling KL; ``words`` behind which it is large.
        classes: of tokens, each with its share of the text and of the KL.
        sites: heads and MLPs by falling share of the KL at the worst contexts; ``together`` the first of them at once.
        codes: that changed at a word, by falling weight.
        n_changed: how many of ``n_codes`` occur more or less often than in the base, by a sign test with q ≤ .05.
        undo: what taking codes back does, by arm; ``commands`` are command lines that steer so.
        notes: what a reader must know, one sentence each.
    """

    base: str | None
    tuned: str | None
    null: str | None
    codebooks: list[str]
    text: str
    n_tokens: int
    kl: float
    contexts: list[ChangedContext]
    words: list[ChangedWord]
    classes: list[tuple[str, float, float]]
    sites: list[ChangedSite]
    together: list[Together]
    codes: list[ChangedCode]
    n_changed: int
    n_codes: int
    undo: dict[str, Undone]
    prompts: list[dict[str, str]]
    commands: dict[str, list[str]]
    notes: list[str]
    seconds: dict[str, float]

    @property
    def same(self) -> bool:
        """Whether both models do the same."""
        return self.kl == 0 and not self.n_changed

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, folder: Path | str, request: Mapping[str, Any] | None = None) -> Path:
        """Write ``diff.json`` and ``diff.txt`` into a folder."""
        folder = Path(folder)
        write_text(folder / TEXT, self.as_text() + "\n")
        write_json(folder / RESULT, {"request": request, **self.as_json()})
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "Diff":
        """Read the folder again. :class:`InputError`: it holds no comparison, or one that cannot be read."""

        def of_json(stored: Mapping[str, Any]) -> "Diff":
            return TypeAdapter(cls).validate_python({key: stored[key] for key in cls.__annotations__})

        return read_result(Path(folder) / RESULT, "comparison", "interp diff … --out", of_json)

    def as_text(self) -> str:
        """A page: five contexts, three sites, ten codes, and what taking them back does."""
        if self.same:
            return f"no difference: {self.base} and {self.tuned} say the same on {self.n_tokens} tokens"
        lines = [
            f"{self.tuned} against {self.base} on {self.n_tokens} tokens of {self.text}",
            f"KL {self.kl:.4f} nats a token; {self.n_changed} of {self.n_codes} codes changed (q ≤ .05)",
            *(f"note: {note}" for note in self.notes),
            "",
            "where the next token differs most",
        ]
        for context in self.contexts[:_CONTEXTS]:
            more = f" (+{context.alike} alike)" if context.alike else ""
            text = repr(context.text)[1:-1]
            text = "…" + text[-_WIDTH:] if len(text) > _WIDTH else text
            lines.append(f"  {context.kl:5.2f}  {text} → {context.tuned!r}, before {context.base!r}{more}")
        if self.words:
            lines.append("  words behind which it changes, and what the tuned model says there")
        for word in self.words[:_WORDS]:
            lines.append(f"  {word.kl:5.2f}  {word.word!r} → {', '.join(map(repr, word.says[:_SAID]))}")
        if self.sites:
            lines += ["", "heads and MLPs that carry it at such contexts, put into the base"]
            for part in self.sites[:_SITES]:
                lines.append(f"  {part.site:<8} {part.kl_share:z.0%} of the KL")
            every = self.together[-1]
            shares = f"{every.kl_share:z.0%}, at the last token alone {every.last:z.0%}"
            lines.append(f"  the first {every.sites}: {shares}")
        if self.codes:
            lines += ["", "codes that stand at a word now, where the head's other changes would not bring them"]
        for code in self.codes[:_CODES]:
            counted = f"{code.at_word} of {code.of_word}, {code.expected:.1f} expected"
            sides = "".join(f" · {repr(text)[1:-1]}" for text in (code.name, code.writes) if text)
            more = f" (+{code.alike} codes)" if code.alike else ""
            lines.append(f"  {code.word!r:<14} {f'{code.site}={code.code}':<12} {counted}{more}{sides}")
        if self.undo:
            lines += ["", "taken back in the tuned model: KL that goes at such contexts, and elsewhere"]
            for name, arm in self.undo.items():
                lines.append(f"  {name:<16} {_percent(arm.worst)} {_percent(arm.other)}")
        for prompt in self.prompts:
            lines += ["", repr(prompt["prompt"])]
            lines += [f"  {name:<6} {prompt[name]!r}" for name in ("base", "tuned")]
        return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "     –" if share is None else f"{share:>z6.0%}"
