"""The steps of a comparison: both models read, codes are counted, the worst contexts patched, codes taken back."""

import shlex
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.edits import WeightedCode, code_name, format_codes
from interp.bottlenecks.fit import fit_codebooks
from interp.bottlenecks.store import Codebooks, pretrained_names
from interp.changes.counts import ALPHA, least_blocks
from interp.changes.listing import ChangedCode, Listing
from interp.changes.parts import ChangedSite, Together, measure_parts
from interp.changes.reading import book_sites, read_all
from interp.changes.result import Diff
from interp.changes.undo import Undone, measure_undo, token_gate, undoable
from interp.codesearch.corpus import read_corpus
from interp.codesearch.labels import Labels, labels_of
from interp.errors import InputError
from interp.executor import SERIAL, Workers
from interp.models import Model, describe_model
from interp.models.generate import generate
from interp.progress import Stage, silent, timed
from interp.text import TextBlocks, load_text

TEXT, N_TOKENS, CONTEXT = "stdlib", 50_000, 128
CONTEXTS, CODES = 64, 15  # contexts that are patched, and codes that are listed
WINDOW = 32  # tokens of a context that is patched
UNDONE_WORDS, UNDONE = 15, 300
"""Words whose changed codes are taken back, at the sites that carry the change, and so many of these at most."""
WRITTEN = 40  # tokens that both models continue a prompt by


def diff(
    base: Model,
    tuned: Model,
    text: "str | TextBlocks" = TEXT,
    *,
    null: Model | None = None,
    codebooks: "Mapping[str, Bottleneck] | str | None" = None,
    n_tokens: int = N_TOKENS,
    context: int | None = None,
    prompts: Sequence[str] = (),
    patches: bool = True,
    seed: int = 0,
    workers: Workers = SERIAL,
    stage: Stage = silent,
) -> Diff:
    """What a finetuned model does that its base did not, by words, sites and codes. :class:`InputError`: models that
    cannot be compared, or a text that is too short.

    >>> base, tuned = load_model("planted-induction"), load_model("planted-induction")
    >>> _ = tuned.blocks[1].attn.q.weight.data.mul_(-1)  # in place of finetuning
    >>> diff(base, tuned, "self", n_tokens=1600).sites[0].site
    'a1.h1'

    Args:
        base, tuned: of one architecture and tokenizer.
        text: a source of text, or blocks of it.
        null: a model finetuned on something else: what changed there as well is left out. Without one the list
            also holds what any finetuning moves.
        codebooks: of the base; by default those that come with the package, else some that are fitted here.
        prompts: continued by both.
        patches: whether the worst contexts are patched, and codes taken back.
        workers: share the text out; they load the models by their names.
    """
    seconds: dict[str, float] = {}
    measured = timed(stage, seconds)
    others = [tuned] if null is None else [tuned, null]
    for other in others:
        check_comparable(base, other)
    context = context or min(CONTEXT, base.cfg.n_ctx)
    blocks = load_text(text, base, n_tokens=n_tokens, context=context, seed=seed, stage=stage)
    books, names = _books(base, codebooks, blocks, seed, stage)
    n_codes = {name: n for name, (_, _, n) in book_sites(base, books).items()}
    needed = least_blocks(sum(n_codes.values()))
    if len(blocks.tokens) < needed:
        raise InputError(
            f"a text of {len(blocks.tokens)} blocks of {context} tokens is too short to tell any of "
            f"{sum(n_codes.values())} codes: give at least {needed * context} tokens"
        )
    readings = read_all([base, *others], books, blocks.tokens, measured, workers=workers)
    before, after = readings[:2]
    with measured("counting"):
        corpus = read_corpus(blocks.tokens.numpy(), base.tokenizer, base.cfg.d_vocab)
        stored = [labels_of(source) for source in names.values() if source is not None]
        labels = [part for part in stored if part is not None]
        listing = Listing(corpus, before, after, n_codes, labels)
        counts, third = listing.counts, readings[2] if null is not None else None
        against = None if third is None else listing.compared(third)
        codes = listing.codes(CODES, against)
    parts: list[ChangedSite] = []
    together: list[Together] = []
    undo: dict[str, Undone] = {}
    used: list[ChangedCode] = []
    if patches and after.kl.max() > 0 and (worst := _windows(blocks.tokens, after.kl, CONTEXTS)) is not None:
        parts, together = measure_parts(base, tuned, worst[0], stage=measured)
        carrying = [part.site for part in parts]
        used = undoable(listing.behind(UNDONE_WORDS, UNDONE, carrying, against), books, base)
        if used:
            undo = measure_undo(base, tuned, books, used, (before.means, after.means), *worst, stage=measured)
    specs = [describe_model(model)["spec"] for model in (base, *others)]
    return Diff(
        base=specs[0],
        tuned=specs[1],
        null=specs[2] if null is not None else None,
        codebooks=list(names),
        text=blocks.spec,
        n_tokens=blocks.n_tokens,
        kl=float(after.kl.mean()),
        contexts=listing.contexts(CONTEXTS),
        words=listing.words(CODES, third),
        classes=listing.classes(),
        sites=parts,
        together=together,
        codes=codes,
        n_changed=int((counts.q <= ALPHA).sum()),
        n_codes=len(counts.q),
        undo=undo,
        prompts=_continued(base, tuned, prompts, measured) if prompts else [],
        commands=_commands(specs, names, used),
        notes=_notes(labels, null),
        seconds=seconds,
    )


def check_comparable(base: Model, other: Model) -> None:
    for name in ("n_layers", "n_heads", "d_model", "d_vocab"):
        of_base, of_other = (getattr(model.cfg, name) for model in (base, other))
        if of_base != of_other:
            raise InputError(
                f"models of {name} {of_base} and {of_other} cannot be compared: give one and its finetuned form"
            )
    of_base, of_other = (dict(model.original_model.named_parameters()) for model in (base, other))
    if {name: p.shape for name, p in of_base.items()} != {name: p.shape for name, p in of_other.items()}:
        raise InputError("models with weights of other names or shapes cannot be compared")
    vocabularies = (model.tokenizer.get_vocab() for model in (base, other))
    if next(vocabularies) != next(vocabularies):
        raise InputError("models with other tokenizers cannot be compared: the same text is other tokens")


def _books(
    base: Model, given: "Mapping[str, Bottleneck] | str | None", blocks: TextBlocks, seed: int, stage: Stage
) -> tuple[dict[str, Bottleneck], dict[str, Codebooks | None]]:
    """Codebooks by site, and where they are from."""
    if isinstance(given, Mapping):
        name = str(getattr(given, "folder", None) or "given")
        return dict(given), {name: given if isinstance(given, Codebooks) else None}
    wanted = [name for name in (given or "").split(",") if name] or pretrained_names(base)
    if not wanted:
        fitted = fit_codebooks(base, "heads", blocks, n_codes=64, k=1, seed=seed, stage=stage)
        return dict(fitted), {"fitted to the base": None}
    opened = {name: Codebooks.from_pretrained(name, base) for name in wanted}
    joined: dict[str, Bottleneck] = {}
    for books in opened.values():
        joined |= {site: book for site, book in books.in_memory().items() if site not in joined}
    return joined, dict(opened)


def _windows(
    tokens: Int[Tensor, "block pos"], kl: np.ndarray, n: int
) -> tuple[Int[Tensor, "context pos"], Int[Tensor, "context pos"]] | None:
    """The tokens before and at the worst ones, one a block, and as many evenly spread over the text."""
    context = tokens.shape[1]
    length = min(WINDOW, context)
    by_block = kl.reshape(-1, context)[:, length - 1 :]
    at, worst = by_block.argmax(1), np.argsort(-by_block.max(1), kind="stable")[:n]
    if by_block.max() <= 0:
        return None
    spread = np.linspace(0, len(by_block) - 1, min(n, len(by_block))).astype(int)
    return torch.stack([tokens[i, at[i] : at[i] + length] for i in worst]), tokens[spread, -length:]


def _continued(base: Model, tuned: Model, prompts: Sequence[str], stage: Stage) -> list[dict[str, str]]:
    continued = [{"prompt": prompt} for prompt in prompts]
    with stage("continuing", 2 * len(prompts)) as done:
        for row in continued:
            for name, model in (("base", base), ("tuned", tuned)):
                row[name] = generate(model, [row["prompt"]], WRITTEN)[0][len(row["prompt"]) :]
                done(1)
    return continued


def _commands(
    specs: Sequence[str | None], names: Mapping[str, Codebooks | None], codes: Sequence[ChangedCode]
) -> dict[str, list[str]]:
    """Command lines of ``interp steer``: changed codes forbidden in the tuned model, and put into the base."""
    by_books: dict[str, list[ChangedCode]] = {}
    for code in codes:
        keys = {code.site, code.site.partition(".")[0]}
        homes = (name for name, books in names.items() if books is not None and keys & {*books})
        if (home := next(homes, None)) is not None:
            by_books.setdefault(home, []).append(code)
    undo, redo = [], []
    for home, members in by_books.items():
        listed = format_codes([WeightedCode(code.site, code.code) for code in members])
        words = ["interp", "steer", "--codebooks", home, "--positions", "all"]
        undo.append(shlex.join([*words, "--model", str(specs[1]), "--codes", listed, "--forbid"]))
        first = members[0]
        chosen, gate = code_name(first.site, first.code), f"--when={token_gate(first)}"
        redo.append(shlex.join([*words, "--model", str(specs[0]), "--codes", chosen, gate]))
    return {"undo": undo, "redo": redo}


def _notes(labels: Sequence[Labels], null: Model | None) -> list[str]:
    notes = []
    if null is None:
        notes.append("codes are listed without a null model (--null): some of them any finetuning would move")
    if not labels:
        notes.append("the codes have no names: interp index label makes some for codebooks of yours")
    return notes
