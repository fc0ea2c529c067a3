"""How texts are shown: beside each other, a token of one opened, what each token cost, and how to have all again."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from interp.app import engine
from interp.app.steering import job
from interp.app.steering.form import address
from interp.app.widgets.charts import table
from interp.app.widgets.code_names import code_pages
from interp.app.widgets.token_strip import Row, token_strip
from interp.app.widgets.tokens import STEERED, marked, plain, visible
from interp.bottlenecks.store import Codebooks
from interp.codesearch import Labels
from interp.errors import InputError
from interp.report import wording
from interp.report.plots import DIVERGENCE, SURPRISE, token_costs
from interp.report.wording import code_label
from interp.steering import CodeSet, SteeringRequest, WeightedCode
from interp.steering.request import BASE
from interp.steering.request import STEERED as CODES

CODE = 320  # pixels: hundreds of codes make a long program
MOST_BRANCHES = 4
SHARE = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
OPENED, OPENED_AT = "opened text", "opened token"  # keys of the boxes that say which token is open


class SteeredTexts(NamedTuple):
    """Texts that were written."""

    request: SteeringRequest
    written: Sequence[job.Written]
    made: dict  # what the form said, see :func:`~interp.app.steering.form.settings`
    # books, labels: by which codes are read
    books: Codebooks
    labels: Labels | None


def streaming(place: DeltaGenerator, beside: Sequence[str]) -> job.Show:
    names = [job.NAMES[BASE], job.NAMES[CODES], *(name for name in job.BESIDE if name in beside)]
    spots = {}
    with place.container(key="arms writing"):
        for column, name in zip(st.columns(len(names)), names, strict=True):
            with column.container(border=True, height="stretch"):
                st.markdown(f"**{name}**")
                spots[name] = st.empty()
    return lambda name, *so_far: spots[name].html(marked(*so_far))


@st.fragment
def texts(shown: SteeredTexts) -> None:
    """The texts beside each other and what was branched off them; everything that a click on a token changes."""
    branches = st.session_state.setdefault("branches", [])
    all_texts = [*shown.written, *branches]
    number, at = st.session_state.get(OPENED), st.session_state.get(OPENED_AT)
    if number is None or number >= len(all_texts):
        number, at = 1, None
    if at is not None and at >= len(all_texts[number].text.tokens):
        at = None
    st.session_state[OPENED], st.session_state[OPENED_AT] = number, at
    cards, boxes = st.container(key="arms"), st.container()
    if at is not None:
        with engine.saying():
            _open(shown, all_texts[number], at)
    all_texts = [*shown.written, *branches]  # one may have come
    for first in range(0, len(all_texts), 4):
        row = all_texts[first : first + 4]
        for i, (column, text) in enumerate(zip(cards.columns(len(row)), row, strict=True), first):
            with column.container(border=True, height="stretch"):
                _card(text, i, at if i == number else None)
    left, right = boxes.columns([3, 2])
    left.segmented_control(
        "Look into", range(len(all_texts)), format_func=lambda i: all_texts[i].name, required=True, key=OPENED
    )
    new = all_texts[number].pieces[all_texts[number].n_prompt :]
    right.selectbox(
        "New token",
        range(len(new)),
        None,
        format_func=lambda i: f"{i + 1} {visible(new[i])}",
        key=OPENED_AT,
        placeholder="click one above",
    )


def _card(text: job.Written, number: int, at: int | None) -> None:
    perplexity = "ended at once" if text.text.perplexity is None else f"perplexity {text.text.perplexity:.1f}"
    moved = "" if text.divergence is None or not len(text.divergence) else f" · KL {text.divergence.mean():.2f}"
    st.markdown(
        f"**{text.name}**",
        help="Perplexity of the new tokens under the model as it is; KL(this ‖ base) of the next token at each step, "
        "nats, the mean.",
    )
    st.caption(perplexity + moved)

    def take(token: int) -> None:
        st.session_state[OPENED], st.session_state[OPENED_AT] = number, token - text.n_prompt

    faded = ["padding:1px 0;opacity:.65;"] * text.n_prompt + ["padding:1px 0;"] * len(text.text.tokens)
    styles = [style + STEERED * mark for style, mark in zip(faded, text.marks, strict=True)]
    titles = ["codes edited here" * mark for mark in text.marks]
    row = Row(f"Tokens of {text.name}", "", styles, [""] * len(styles), titles)
    chosen = None if at is None else text.n_prompt + at
    token_strip(text.pieces, [row], chosen, f"strip {number}", take, text.n_prompt)


def _open(shown: SteeredTexts, opened: job.Written, at: int) -> None:
    """A new token of a text: what else could have come, the codes there, and the way on from another token."""
    base, codes, *_ = (text.condition for text in shown.written)
    condition = codes if opened.condition is base else opened.condition
    likely, *site_codes = engine.asked_last(
        "inspected token",
        (id(opened), at),
        lambda: job.inspect_token(shown.books, base, condition, opened.text.tokens, at),
    )
    chosen, token_before = (plain(visible(opened.pieces[opened.n_prompt + i])) for i in (at, at - 1))
    st.markdown(f"**{chosen}** in *{opened.name}*, {_set_by(opened, at)}, behind {token_before}")
    left, right = st.columns(2)
    token = opened.text.tokens[at]
    rows = [
        {"next token": visible(other.text) + (" ←" if other.token == token else ""), "base": other.base}
        | {condition.name: other.condition}
        for other in likely
    ]
    table(rows, "likely", {"base": SHARE, condition.name: SHARE}, left, height=CODE)
    table(_code_rows(shown.labels, *site_codes), "codes there", place=right, height=CODE)
    _branch(shown, opened, at, [other for other in likely if other.token != token])


def _set_by(text: job.Written, at: int) -> str:
    if at == text.branched:
        return "chosen by hand"
    if text.condition.within is None:
        return "as the model is" if text.divergence is None else "by what is said in front of the prompt"
    edited = text.marks[text.n_prompt + at - 1]
    return "with the edits of this text at the token before" if edited else "with no edit at the token before"


def _code_rows(labels: Labels | None, base: job.SiteCodes, steered: job.SiteCodes) -> list[dict[str, str]]:
    """The codes as the token was chosen: those first that are others than in the base, the clearest names first."""

    def clear(site: str, code: int) -> float:
        label = None if labels is None else labels.of(site, code)
        return label.f1 if label is not None and label.named else 0.0

    def described(site: str, codes: Sequence[int]) -> str:
        named = (f"{code} {code_label(labels, site, code) if clear(site, code) else ''}" for code in codes)
        return ", ".join(text.strip() for text in named)

    def rank(site: str) -> tuple[bool, float]:
        clearest = max((clear(site, code) for code in (*base[site], *steered[site])), default=0)
        return base[site] == steered[site], -clearest

    return [
        {
            "site": site,
            "code": described(site, steered[site]),
            "in the base": "" if base[site] == steered[site] else described(site, base[site]),
        }
        for site in sorted((site for site in base if site in steered), key=rank)
    ]


def _branch(shown: SteeredTexts, text: job.Written, at: int, others: Sequence[job.Likely]) -> None:
    """Another token in the place of this one, and the text from there on."""
    texts_of = {other.token: f"{wording.token(other.text)} {other.condition:.0%}" for other in others}
    token = st.pills(
        "Go on with another token",
        texts_of,
        format_func=lambda token: plain(texts_of[token]),
        key=f"branch {id(text)} {at}",
    )
    place = st.empty()
    if token is not None and st.button("Branch", icon=":material/fork_right:"):

        def show(_name: str, *so_far) -> None:
            place.html(marked(*so_far))

        new = job.branch(shown.request, shown.written[0].condition, text, at, token, show)
        st.session_state["branches"][:] = [*st.session_state["branches"], new][-MOST_BRANCHES:]
        place.empty()


def draw_costs(texts: Sequence[job.Written]) -> None:
    most_surprise = max(text.text.surprise.max(initial=0) for text in texts)
    moved = [text.divergence for text in texts if text.divergence is not None]
    most_moved = max(divergence.max(initial=0) for divergence in moved)
    with st.expander("What each token cost"):
        for column, written in zip(st.columns(len(texts)), texts, strict=True):
            with column:
                st.markdown(f"**{written.name}**")
                _costs(written, "Surprise of each new token", written.text.surprise, SURPRISE, most_surprise)
                _costs(written, "KL from the base at each", written.divergence, DIVERGENCE, most_moved)
        st.caption(
            "Surprise is −log p of each new token under the model as it is, behind the same prompt; KL is how far the "
            "distribution that it was drawn from was moved, at temperature 1."
        )
        rows = [
            {
                "text": written.name,
                "n": i + 1,
                "token": written.pieces[written.n_prompt + i],
                "surprise": float(written.text.surprise[i]),
                "KL": None if written.divergence is None else float(written.divergence[i]),
            }
            for written in texts
            for i in range(len(written.text.tokens))
        ]
        table(rows, "numbers", dict.fromkeys(("surprise", "KL"), st.column_config.NumberColumn(format="%.3f")))


def _costs(text: job.Written, name: str, values: np.ndarray | None, colour: str, top: float) -> None:
    """One number for each new token, the mean and the largest in words."""
    if values is None or not len(values):
        return
    new = [visible(piece) for piece in text.pieces[text.n_prompt :]]
    most = int(values.argmax())
    st.caption(f"{name}, nats: mean {values.mean():.2f}, largest {values[most]:.2f} at {plain(new[most])} ({most + 1})")
    st.plotly_chart(
        token_costs(new, values, colour, top),
        key=f"{name} in {text.name}",
        alt=f"{name} of every new token of {text.name}, in nats",
    )


def draw_code_set(
    code_set: CodeSet, used: Sequence[WeightedCode], books: str, label: Callable[[str, int], dict[str, str]]
) -> None:
    listed, page = code_set.listed(used), code_pages(books)
    st.caption(
        f"{len(listed)} of {len(code_set)} used, from {code_set.n_positive} texts with it and "
        f"{code_set.n_negative} without. "
        "Precision, recall and q are of texts that did not choose; – if the half of them that chooses alone did not "
        "find a code."
    )
    if doubt := code_set.doubt():
        st.warning(plain(doubt))
    rows = [
        {
            "site": code.site,
            "code": code.code,
            **label(code.site, code.code),
            "weight": code.weight,
            "effect": code.effect,
            "precision": code.verdict and code.verdict.precision,
            "recall": code.verdict and code.verdict.recall,
            "q": code.verdict and code.verdict.q_value,
            "page": page(code.site, code.code),
        }
        for code in listed
    ]
    table(rows, "found", {"page": st.column_config.LinkColumn("its page", display_text="what it is")})


def draw_again(shown: SteeredTexts) -> None:
    """How to get the texts of base and codes again, by the link all that the form asked for, and all of it to keep."""
    session_data = session(shown)
    st.subheader("Again")
    names = ["In Python", "On the command line", "Link", "JSON", "Control vector"]
    in_python, in_terminal, link, as_json, exported = st.tabs(names)
    in_python.code(session_data["python"], language="python", wrap_lines=True, height=CODE)
    in_terminal.code(session_data["command"], language="bash", wrap_lines=True, height=CODE)
    link.code(session_data["link"], language=None, wrap_lines=True, height=CODE)
    as_json.download_button(
        "Texts and what repeats them",
        json.dumps(session_data, indent=1),
        "steering.json",
        "application/json",
        on_click="ignore",
    )
    with exported:
        try:
            vector = job.control_vector(shown.books, shown.request)
        except InputError as error:
            st.caption(plain(str(error)))
        else:
            st.download_button("For llama.cpp (GGUF)", vector, "codes.gguf", on_click="ignore")
            st.caption("Added at every token, one block before each head. At scale 0.8 it steers as these codes do.")


def session(shown: SteeredTexts) -> dict:
    """The texts with their tokens and each token's KL in nats, and what repeats them."""
    request, link = shown.request, address(shown.made)
    texts = [
        {
            "name": text.name,
            "text": "".join(text.pieces),
            "pieces": text.pieces,
            "n_prompt": text.n_prompt,
            "kl": None if text.divergence is None else [round(float(kl), 5) for kl in text.divergence],
        }
        for text in shown.written
    ]
    return {"python": request.program(), "command": request.command(), "link": link, "texts": texts}
