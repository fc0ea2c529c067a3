"""Set codes while the model writes: base and steered side by side."""

import streamlit as st

from interp.app import engine
from interp.app.books import choose
from interp.app.steered import BASE, HOW, STEERED, Dose, compare, find
from interp.app.tokens import written
from interp.steering import load_topic, parse_codes, topic_names
from interp.steering.find import RANKINGS
from interp.steering.topics import neutral_texts
from interp.tasks.errors import InputError

NAMED, OF_TOPIC, OF_TEXTS = "by name", "of a topic", "of texts"
PROMPT = "Once upon a time, there was a little girl who"
MOST_SEED = 2**31 - 1
IN_URL = "query-params"


def lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


st.title("Steering")
st.caption("The same prompt continued twice: by the model as it is, and with some of its codes edited.")
folder, books = choose()
deepest = max(book.config.k for book in books.values())

left, right = st.columns(2)
source = left.radio("Which codes", [NAMED, OF_TOPIC, OF_TEXTS], horizontal=True, key="source", bind=IN_URL)
how = right.radio(
    "They are",
    HOW,
    horizontal=True,
    key="how",
    bind=IN_URL,
    help="Set: the head's code becomes this one. Added: how the code differs from its codebook's mean is added. "
    "Forbidden: the next best code is taken.",
)
with st.form("steer"):
    prompt = st.text_area("Prompt", PROMPT, key="prompt", bind=IN_URL, height=80)
    if source == NAMED:
        named = st.text_input("Codes", key="codes", bind=IN_URL, placeholder="a12.h3=417, m5=31")
    elif source == OF_TOPIC:
        topic = st.selectbox("Topic", topic_names(), key="topic", bind=IN_URL)
    else:
        left, right = st.columns(2)
        like = left.text_area("Texts with it, one a line", key="like", height=150)
        unlike = right.text_area(
            "Texts without it", key="unlike", height=150, placeholder="if empty: everyday sentences"
        )
    if source != NAMED:
        left, right = st.columns(2)
        dose = left.number_input(
            "Dose",
            1,
            None,
            10,
            key="dose",
            bind=IN_URL,
            help="Of the codes found, how many are used, best first.",
        )
        by = right.selectbox("Ranked by", RANKINGS, key="by", bind=IN_URL)
    a, b, c, d, e, f = st.columns(6)
    scale, slots = 1.0, 1
    if how == "added":
        scale = a.number_input("Times", -100.0, 100.0, 1.0, 0.5, key="scale", bind=IN_URL)
    elif how == "set":
        slots = a.number_input(
            "Slots",
            1,
            deepest,
            1,
            key="slots",
            bind=IN_URL,
            help="Of a vector's k codes, how many become the code.",
        )
    positions = b.selectbox("Positions", ["generated", "prompt", "all"], key="positions", bind=IN_URL)
    share = c.number_input(
        "Share of tokens",
        0.0,
        1.0,
        1.0,
        0.1,
        key="share",
        bind=IN_URL,
        help="Of those positions, drawn by the seed.",
    )
    n_tokens = d.number_input("New tokens", 1, 400, 40, key="tokens", bind=IN_URL)
    temperature = e.number_input("Temperature", 0.0, 5.0, 1.0, 0.1, key="temperature", bind=IN_URL)
    seed = f.number_input("Seed", 0, MOST_SEED, 0, key="seed", bind=IN_URL)
    pressed = st.form_submit_button("Steer", type="primary")

if pressed:
    st.session_state.pop("comparison", None)
    columns = st.columns(2)
    places = [column.empty() for column in columns]
    try:
        found = None
        if source == NAMED:
            codes = parse_codes(named)
        else:
            if source == OF_TOPIC:
                chosen = load_topic(topic)
                positive, negative = chosen.positive, chosen.negative
            else:
                positive, negative = lines(like), lines(unlike) or neutral_texts()
            found = find(folder, books, positive, negative, by, seed)
            codes = [(edit.site, edit.code) for edit in found.sets(min(dose, len(found)))]
        st.session_state["comparison"] = (
            found,
            compare(
                folder,
                books,
                prompt,
                codes,
                Dose(how, scale, slots, positions, share, n_tokens, temperature, seed),
                lambda row, text: places[row].html(written(prompt, text)),
            ),
        )
    except InputError as error:
        engine.say(error)
    for place in places:
        place.empty()

if "comparison" not in st.session_state:
    if not pressed:
        st.caption("Nothing steered yet: name codes, or have them found, and press Steer.")
    st.stop()
found, comparison = st.session_state["comparison"]
for column, row, name in zip(st.columns(2), (BASE, STEERED), ("Base", "Steered"), strict=True):
    perplexity = comparison.texts[row].perplexity
    with column.container(border=True):
        st.metric(
            f"{name}: perplexity",
            "ended at once" if perplexity is None else f"{perplexity:.1f}",
            help="Of the new tokens under the model without steering.",
        )
        st.html(comparison.strips[row])
st.caption(
    f"Marked: the {comparison.n_steered} tokens at which codes were edited as the model read them (it does not "
    "read the last one it writes). Perplexity is that of the new tokens under the model without steering."
)
if found is not None:
    st.subheader("Codes found")
    st.caption(
        f"{len(comparison.codes)} of {len(found)} used. Half of the {found.n_positive} texts with it and "
        f"{found.n_negative} without chose them; precision and recall are of the other half."
    )
    st.dataframe(
        [
            {
                "site": code.site,
                "code": code.code,
                "precision": code.precision,
                "recall": code.recall,
                "effect": code.effect,
                "q": code.q_value,
            }
            for code in found.codes[: len(comparison.codes)]
        ],
        hide_index=True,
    )
st.subheader("In Python")
st.code(comparison.program, language="python")
