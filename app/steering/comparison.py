"""How a comparison is shown: the texts beside each other, what each token cost, and how to have it again."""

from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from interp.app.steering.job import NAMES, Show, Written
from interp.app.steering.permalink import address
from interp.app.widgets.tokens import marked, plain, visible
from interp.app.widgets.urls import code_pages
from interp.report.plots import DIVERGENCE, SURPRISE, token_costs
from interp.steering import CodeSet, SteeringRequest, WeightedCode

CURSOR = "▌"
CODE = 320
"""Pixels: hundreds of codes make a long program."""


def streaming(place: DeltaGenerator, random_baseline: bool) -> Show:
    """Cards for texts that are being written."""
    names = [*NAMES.values()][: 3 if random_baseline else 2]
    spots = []
    with place.container():
        for column, name in zip(st.columns(len(names)), names, strict=True):
            with column.container(border=True, height="stretch"):
                st.markdown(f"**{name}**")
                spots.append(st.empty())
    return lambda row, texts, marks, n_prompt: spots[row].html(marked(texts, marks, n_prompt, ends=CURSOR))


def draw_costs(one: Written, name: str, values: np.ndarray | None, colour: str, top: float) -> None:
    """One number for each new token, the mean and the largest in words."""
    if values is None or not len(values):
        return
    new = [visible(piece) for piece in one.pieces[one.n_prompt :]]
    most = int(values.argmax())
    st.caption(
        f"{name}, nats: mean {values.mean():.2f}, largest {values[most]:.2f} at {plain(new[most])} ({most + 1})"
    )
    figure = token_costs(new, values, colour, top)
    st.plotly_chart(
        figure,
        theme="streamlit",
        key=f"{name} in {one.name}",
        alt=f"{name} of every new token of {one.name}, in nats",
    )


def draw(texts: Sequence[Written]) -> None:
    """The texts beside each other."""
    tops = (
        max((text.text.surprise.max(initial=0) for text in texts), default=0),
        max((text.divergence.max(initial=0) for text in texts if text.divergence is not None), default=0),
    )
    for column, one in zip(st.columns(len(texts)), texts, strict=True):
        with column.container(border=True, height="stretch"):
            perplexity = one.text.perplexity
            st.markdown(f"**{one.name}**")
            left, right = st.columns(2)
            left.metric(
                "Perplexity",
                "ended at once" if perplexity is None else f"{perplexity:.1f}",
                help="Of the new tokens under the model without steering.",
            )
            if one.divergence is not None and len(one.divergence):
                right.metric(
                    "KL per token",
                    f"{one.divergence.mean():.2f}",
                    help="KL(steered ‖ plain) of the next token at each step, nats, mean over the new tokens.",
                )
            st.html(marked(one.pieces, one.marks, one.n_prompt))
            draw_costs(one, "Surprise of each new token", one.text.surprise, SURPRISE, tops[0])
            draw_costs(one, "KL(steered ‖ plain) at each", one.divergence, DIVERGENCE, tops[1])
    n_marked = max(sum(text.marks) for text in texts)
    st.caption(
        f"Marked: the {n_marked} tokens at which codes were edited as the model read them (it does not read the last "
        "one it writes). Surprise is −log p of each new token under the model without steering; KL is how far the "
        "codes moved the distribution that it was drawn from, at temperature 1."
    )
    with st.expander("Every new token in numbers"):
        st.dataframe(
            [
                {
                    "text": one.name,
                    "n": i + 1,
                    "token": one.pieces[one.n_prompt + i],
                    "surprise": float(one.text.surprise[i]),
                    "KL": None if one.divergence is None else float(one.divergence[i]),
                }
                for one in texts
                for i in range(len(one.text.tokens))
            ],
            hide_index=True,
            column_config={name: st.column_config.NumberColumn(format="%.3f") for name in ("surprise", "KL")},
            key="numbers",
        )


def draw_code_set(
    code_set: CodeSet, used: Sequence[WeightedCode], books: str, label: Callable[[str, int], dict[str, str]]
) -> None:
    listed, page = code_set.listed(used), code_pages(books)
    st.subheader("Codes found")
    st.caption(
        f"{len(listed)} of {len(code_set)} used, from {code_set.n_positive} texts with it and "
        f"{code_set.n_negative} without. "
        "Precision, recall and q are of texts that did not choose; – if the half of them that chooses alone did not "
        "find a code."
    )
    if doubt := code_set.doubt():
        st.warning(plain(doubt))
    st.dataframe(
        [
            {
                "site": code.site,
                "code": code.code,
                **label(code.site, code.code),
                "weight": code.weight,
                "effect": code.effect,
                "precision": None if code.verdict is None else code.verdict.precision,
                "recall": None if code.verdict is None else code.verdict.recall,
                "q": None if code.verdict is None else code.verdict.q_value,
                "page": page(code.site, code.code),
            }
            for code in listed
        ],
        hide_index=True,
        column_config={"page": st.column_config.LinkColumn("its page", display_text="what it is")},
        key="found",
    )


def draw_again(request: SteeringRequest, books: str) -> None:
    """How to get the same texts again; ``books`` is what the codebooks that made them are called."""
    st.subheader("Again")
    in_python, in_terminal, link = st.tabs(["In Python", "On the command line", "Link"])
    in_python.code(request.program(), language="python", wrap_lines=True, height=CODE)
    in_terminal.code(request.command(), language="bash", wrap_lines=True, height=CODE)
    link.code(address(request, books), language=None, wrap_lines=True, height=CODE)
