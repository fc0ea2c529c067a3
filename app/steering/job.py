"""The texts of the page *Steering*: a prompt continued in up to four ways, one step looked into, a text branched off.

What a request asks for is written as rows of one batch, so that the command line writes the same; a text with something
said in its prompt, or with a vector added, is written by itself.
"""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.metric import kl_divergence
from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import pieces
from interp.bottlenecks.attach import Attached, attach, groups_at
from interp.bottlenecks.edits import CodeEdit, EditScope
from interp.bottlenecks.store import Codebooks
from interp.codesearch.layout import names_of_groups
from interp.errors import InputError
from interp.evaluation.steering_conditions import means_of_texts
from interp.models import Model, model_device, resolve_site
from interp.models.generate import generate
from interp.report import wording
from interp.steering import AddCode, CodeSet, SteeringRequest, find_codes
from interp.steering.cache import keep, recall, request_key
from interp.steering.continuations import Continuation, encode_prompts
from interp.steering.control_vector import vector_books
from interp.steering.request import BASE, RANDOM, STEERED
from interp.text.special import ends, first_token, until_end

NAMES = {BASE: "Base", STEERED: "Codes", RANDOM: "Random codes"}  # what the conditions of a request are called here
MEANS, SAID = "Difference of means", "Said in the prompt"
BESIDE = (NAMES[RANDOM], MEANS, SAID)  # what can stand beside base and codes, in the order in which it is written
MOST_BESIDE = 2
MEANS_TIMES = 3.5
"""How many times a difference of means is added: about what the seven topics took (benchmarks/TABLES.md)."""
MOST_PROMPT = 1000  # tokens: of more, what is drawn at each step takes longer than the model does
SEED = 0  # of which texts choose codes that are found, and which judge them
FOUND = ".found"  # where codes that were found are kept, in the runs folder
EVERY = 2  # new tokens between two looks at what was written so far
LIKELIEST = 6  # tokens listed of a step, by each of two distributions


@dataclass(frozen=True)
class Condition:
    """How one of the texts is written."""

    name: str
    prompt: list[int]  # token ids
    # makes what the model runs within, with codes read if ``read`` says so; None for the model as it is
    within: Callable[..., Attached] | None = None
    row: int = 0  # of a batch, that which the edits name

    def at(self) -> Attached | None:
        return None if self.within is None else self.within()

    def rows(self, model: Model, new: Sequence[int]) -> Int[Tensor, "row pos"]:
        """The text so far, in every row up to its own."""
        return torch.tensor([[*self.prompt, *new]] * (self.row + 1), device=model_device(model))


@dataclass(frozen=True)
class Written:
    """One of the texts."""

    name: str
    condition: Condition
    text: Continuation
    pieces: list[str]  # the prompt's and the new tokens as text; BOS is among them only if codes were edited there
    n_prompt: int  # how many of them are the prompt
    marks: list[bool]  # at which of them codes were edited as the model read them
    # KL(this ‖ plain) at the step of each new token, nats; None for the base
    divergence: Float[np.ndarray, " token"] | None
    branched: int | None = None  # the new token at which the text was gone on with by hand


@dataclass(frozen=True)
class Likely:
    """A token that could come next, and its probability in the base and in the condition."""

    token: int
    text: str
    base: float
    condition: float


SiteCodes = dict[str, list[int]]  # codes at one token by site, heads apart, the strongest first
Show = Callable[[str, list[str], list[bool], int], None]
"""Is told a text's name, pieces of it, which of them codes were edited at, and how many are of the prompt."""


def compare(
    books: Codebooks,
    request: SteeringRequest,
    show: Show,
    *,
    vectors: Mapping[str, Tensor] | None = None,
    times: float = MEANS_TIMES,
    said: str | None = None,
) -> tuple[Written, ...]:
    """Write the text of each condition, taking a turn at the model; ``show`` is told of each as far as it is written.
    ``request``: of one prompt. ``vectors``: by site, what is added in another text, so many times. ``said``: what a
    further text has in front of its prompt."""
    # a mistake should not wait for its turn
    model = engine.model()
    ids = _prompt_ids(model, request)
    codes_by_name = request.conditions(model, books)
    edits = [request.edits(codes, [row]) for row, codes in enumerate(codes_by_name.values())]
    placing = {"positions": EditScope(request.positions).columns(len(ids)), "when": request.when}
    placing |= {"fraction": request.fraction, "seed": request.seed}

    def edited(books: Mapping, edits: Sequence[CodeEdit], *, read: bool = False) -> Attached:
        """Edits at the request's positions behind the prompt, wherever it is taken up again."""
        return attach(model, books, read=read).edit(*edits, **placing)

    conditions = [
        Condition(NAMES[name], ids, partial(edited, books, condition_edits) if condition_edits else None, row)
        for row, (name, condition_edits) in enumerate(zip(codes_by_name, edits, strict=True))
    ]
    together, alone = edited(books, sum(edits, [])), []
    if vectors is not None:
        all_books = {**books, **vector_books(model, vectors)}
        added = [AddCode(site, 0, times) for site in vectors]
        alone.append(Condition(MEANS, ids, partial(edited, all_books, added)))
    if said is not None:
        longer = replace(request, prompts=(f"{said.strip()} {request.prompts[0]}",))
        alone.append(Condition(SAID, _prompt_ids(model, longer)))
    with engine.running():
        new = continue_text(model, request, ids, conditions, together, show)
        for condition in alone:
            new += continue_text(model, request, condition.prompt, [condition], condition.at(), show)
        return tuple(
            _written(model, request, conditions[0], condition, tokens, ended=len(tokens) < request.n_tokens)
            for condition, tokens in zip([*conditions, *alone], new, strict=True)
        )


def branch(request: SteeringRequest, base: Condition, text: Written, at: int, token: int, show: Show) -> Written:
    """A text up to a new token, another one in its place, and how the model goes on from there."""
    begin = [*text.condition.prompt, *text.text.tokens[:at], token]
    with engine.running() as model:
        n_tokens = min(request.n_tokens, model.cfg.n_ctx - len(begin))
        if n_tokens < 1:
            raise InputError(f"a text of {len(begin)} tokens: the model reads no more")
        shorter = replace(request, n_tokens=n_tokens)
        [new] = continue_text(model, shorter, begin, [text.condition], text.condition.at(), show)
        whole = [*begin[len(text.condition.prompt) :], *new]
        return replace(
            _written(model, request, base, text.condition, whole, ended=len(new) < n_tokens),
            name=f"{text.condition.name}, token {at + 1}: {wording.token(model.tokenizer.decode([token]))}",
            branched=at,
        )


def inspect_token(
    books: Codebooks, base: Condition, condition: Condition, new: Sequence[int], at: int
) -> tuple[list[Likely], SiteCodes, SiteCodes]:
    """What the base and a condition held as new token number ``at`` of a text was chosen; two forward passes.

    The likeliest tokens and the one that was chosen, the condition's likeliest first; codes of both.
    """
    with engine.running() as model:
        (plain, base_codes), (steered, steered_codes) = (
            _read(model, books, run_under, new[:at]) for run_under in (base, condition)
        )
        chosen = {*steered.topk(LIKELIEST).indices.tolist(), *plain.topk(LIKELIEST).indices.tolist(), new[at]}
        likely = [
            Likely(token, model.tokenizer.decode([token]), float(plain[token]), float(steered[token]))
            for token in sorted(chosen, key=lambda token: -float(steered[token]))
        ]
    return likely, base_codes, steered_codes


@torch.no_grad()
def _read(
    model: Model, books: Codebooks, condition: Condition, new: Sequence[int]
) -> tuple[Float[Tensor, " vocab"], SiteCodes]:
    """How likely each token is next, and the codes at the last one, by site."""
    with attach(model, books) if condition.within is None else condition.within(read=True) as attached:
        p = model(condition.rows(model, new))[condition.row, -1].float().softmax(-1).cpu()
    codes = {}
    for site in books:
        if attached.bottlenecks[site] is not books[site]:  # the difference of means is added there
            continue
        ids = attached.ids[site][condition.row, -1]
        ids_by_group = ids.reshape(-1, ids.shape[-1]).tolist()
        names = names_of_groups(site, groups_at(model, resolve_site(model, site), books[site]))
        codes |= {name: [code for code in row if code >= 0] for name, row in zip(names, ids_by_group, strict=True)}
    return p, codes


def continue_text(
    model: Model,
    request: SteeringRequest,
    begin: list[int],
    conditions: Sequence[Condition],
    within: Attached | None,
    show: Show,
) -> list[list[int]]:
    """The new tokens of each condition behind the same ones, written together."""
    stops = ends(model)

    def new(tokens: Tensor, condition: Condition) -> list[int]:
        return until_end(tokens[condition.row, len(begin) :].tolist(), stops)

    def watch(tokens: Tensor) -> None:
        if (tokens.shape[1] - len(begin)) % EVERY == 1:
            for condition in conditions:
                so_far = new(tokens, condition)
                marks = _marks(condition, within, len(tokens), len(begin) + len(so_far), ended=False)
                show(condition.name, *_runs(model.tokenizer, begin, so_far, marks))

    with within or contextlib.nullcontext():
        out = generate(
            model,
            torch.tensor([begin] * (1 + max(condition.row for condition in conditions)), device=model_device(model)),
            request.n_tokens,
            seed=request.seed,
            temperature=request.temperature,
            watch=watch,
        )
    return [new(out, condition) for condition in conditions]


@torch.no_grad()
def _written(
    model: Model, request: SteeringRequest, base: Condition, condition: Condition, new: Sequence[int], *, ended: bool
) -> Written:
    """A text read once more, by the model as it is behind the base's prompt, and as it was written."""

    def steps(run_under: Condition, attached: Attached | None) -> Float[Tensor, "token vocab"]:
        with attached or contextlib.nullcontext():
            logits = model(run_under.rows(model, new))[run_under.row, len(run_under.prompt) - 1 : -1]
        return logits.float().log_softmax(-1)

    plain, attached = steps(base, None), condition.at()
    steered = plain if condition is base else steps(condition, attached)
    surprise = -plain.gather(-1, torch.tensor(new, device=plain.device).long()[:, None])[:, 0]
    marks = _marks(condition, attached, condition.row + 1, len(condition.prompt) + len(new), ended=ended)
    tokenizer = model.tokenizer
    # BOS is not what the user wrote: it is shown only if codes were edited there
    begin = int(condition.prompt[0] == first_token(tokenizer) and not marks[0])
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Written(
        condition.name,
        condition,
        Continuation(request.prompts[0], text, tuple(new), surprise.cpu().numpy().astype(np.float64)),
        pieces(tokenizer, [*condition.prompt, *new][begin:]),
        len(condition.prompt) - begin,
        marks[begin:],
        None if condition is base else kl_divergence(steered, plain).cpu().numpy().astype(np.float64),
    )


def control_vector(books: Codebooks, request: SteeringRequest) -> bytes:
    """A GGUF file that steers as the request does; raises InputError where there can be none."""
    vector = request.control_vector(engine.model(), books)
    with tempfile.TemporaryDirectory() as folder:
        vector.save(path := Path(folder) / "codes.gguf")
        return path.read_bytes()


def _prompt_ids(model: Model, request: SteeringRequest) -> list[int]:
    if not request.prompts[0].strip():
        raise InputError("no prompt: write the beginning of a text")
    ids = encode_prompts(model, request.prompts, chat=request.chat)[0]
    if len(ids) > MOST_PROMPT:
        raise InputError(
            f"a prompt of {len(ids)} tokens: this page takes {MOST_PROMPT}, interp steer as many as the model reads"
        )
    if len(ids) + request.n_tokens > model.cfg.n_ctx:
        raise InputError(
            f"{len(ids)} tokens of prompt and {request.n_tokens} new ones: the model reads {model.cfg.n_ctx}"
        )
    return ids


def _marks(condition: Condition, within: Attached | None, n_rows: int, n: int, *, ended: bool) -> list[bool]:
    """Of n tokens of a batch that was run, those at which codes were edited: not the last one if it was not read."""
    if condition.within is None or within is None:
        return [False] * n
    marks = within.edited_positions(n_rows, n)[condition.row].tolist()
    return [*marks[:-1], marks[-1] and ended]


def _runs(tokenizer, prompt: list[int], new: list[int], edited: list[bool]) -> tuple[list[str], list[bool], int]:
    """The text in runs of tokens that are marked alike, which are fewer to decode than tokens."""
    texts, marks, n_prompt = [], [], 0
    for begin, part in ((0, prompt), (len(prompt), new)):
        for mark, run in groupby(range(len(part)), lambda i, begin=begin: edited[begin + i]):
            texts.append(tokenizer.decode([part[i] for i in run], skip_special_tokens=True))
            marks.append(mark)
            n_prompt += not begin
    return texts, marks, n_prompt


Texts = tuple[str, ...]


def difference_of_means(positive: Texts, negative: Texts) -> dict[str, Tensor]:
    """What contrastive activation addition adds in the middle of the model, by its site; read once a tab."""

    def read() -> dict[str, Tensor]:
        with engine.running() as model:
            site = f"r{model.cfg.n_layers // 2}"
            return {site: means_of_texts(model, [site], positive, negative).difference(site)}

    return engine.asked_last("means", (engine.model_name(), positive, negative), read)


def known(made_with: str, positive: Texts, negative: Texts, by: str) -> CodeSet | None:
    """The codes of texts, if they were looked for before.

    The seed is always that of what comes with the package: another one for the texts that are written should neither
    cost a search nor steer by other codes. ``made_with``: the identity of model and codebooks.
    """
    run_store.check_inside(engine.runs() / FOUND)
    return recall(engine.runs() / FOUND, request_key(made_with, positive, negative, by, SEED))


def find(books: Codebooks, made_with: str, positive: Texts, negative: Texts, by: str) -> CodeSet:
    """The same, looked for once, taking a turn at the model."""
    if (code_set := known(made_with, positive, negative, by)) is None:
        with engine.running() as model:
            code_set = find_codes(model, books, positive, negative, by=by, seed=SEED, stage=engine.stage)
        with contextlib.suppress(OSError):  # a folder that cannot be written to costs only the time
            keep(engine.runs() / FOUND, request_key(made_with, positive, negative, by, SEED), code_set)
    return code_set
