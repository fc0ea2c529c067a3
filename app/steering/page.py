"""Set codes while the model writes: base and steered side by side, with what each token cost."""

import streamlit as st

from interp import MOST_SEED
from interp.app import engine
from interp.app.steering.comparison import draw, draw_again, draw_code_set, streaming
from interp.app.steering.form import BY_NAME, OF_TOPIC, SOURCES, made_by, settings
from interp.app.steering.job import compare, find
from interp.app.steering.presets import adds, offer
from interp.app.widgets.codebook_picker import choose, made_with
from interp.app.widgets.labels import beside, called, labels
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL
from interp.bottlenecks.edits import format_codes
from interp.errors import InputError
from interp.steering import SteeringRequest, load_topic, parse_codes, topic_names
from interp.steering.code_set import HOW, SCALE
from interp.steering.find import RANKINGS
from interp.steering.request import gate_of
from interp.steering.topics import load_presets, neutral_texts

PROMPT = "Once upon a time, there was a little girl who"


def lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def topics() -> list[str]:
    try:
        return topic_names()
    except InputError as error:
        engine.say(error)
        return []


def usual(source: str) -> tuple[str, float]:
    """Codes that are found are added, so many times; those that are named are set."""
    return ("set", 1.0) if source == BY_NAME else ("added", SCALE)


def suit() -> None:
    """What is chosen below follows the source."""
    st.session_state["how"], st.session_state["scale"] = usual(st.session_state["source"])


st.title("Steering")
st.caption("The same prompt continued twice: by the model as it is, and with some of its codes edited.")
folder, books = choose()
found = labels(books)
label = called(found)
deepest = max(book.config.k for book in books.values())
try:
    offer(load_presets(made_with(folder, books)), label)
except InputError as error:
    engine.say(error)

left, right = st.columns(2)
source = left.radio("Which codes", SOURCES, horizontal=True, key="source", bind=IN_URL, on_change=suit)
usual_how, usual_scale = usual(source)
how = right.radio(
    "They are",
    HOW,
    HOW.index(usual_how),
    horizontal=True,
    key="how",
    bind=IN_URL,
    help="Set: the head's code becomes this one. Added: how the code differs from its codebook's mean is added, as "
    "often as its weight says. "
    "Forbidden: the next best code is taken.",
)
with st.form("steer"):
    prompt = st.text_area("Prompt", PROMPT, key="prompt", bind=IN_URL, height=80)
    if source == BY_NAME:
        given = st.text_area(
            "Codes", key="codes", bind=IN_URL, height=80, placeholder="a12.h3=417, a14.h0=3*0.5"
        )
    elif source == OF_TOPIC:
        topic = st.selectbox("Topic", topics(), key="topic", bind=IN_URL)
    else:
        left, right = st.columns(2)
        with_it = left.text_area("Texts with it, one a line", key="positive", bind=IN_URL, height=150)
        without_it = right.text_area(
            "Texts without it",
            key="negative",
            bind=IN_URL,
            height=150,
            placeholder="if empty: everyday sentences",
        )
    if source != BY_NAME:
        left, right = st.columns(2)
        top_k = left.number_input(
            "How many codes",
            1,
            None,
            None,
            key="top_k",
            bind=IN_URL,
            placeholder="all",
            help="Of the codes found, how many are used, best first.",
        )
        by = right.selectbox("Ranked by", RANKINGS, key="by", bind=IN_URL)
    a, b, c, d = st.columns(4)
    scale, slots = 1.0, 1
    if how == "added":
        scale = a.number_input("Times", -100.0, 100.0, usual_scale, 0.05, key="scale", bind=IN_URL)
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
    begin = c.number_input(
        "From new token",
        1,
        400,
        1,
        key="begin",
        bind=IN_URL,
        help="Of generated positions: the first new token that feels the codes.",
    )
    fraction = d.number_input(
        "Fraction of tokens",
        0.0,
        1.0,
        1.0,
        0.1,
        key="fraction",
        bind=IN_URL,
        help="Of those positions, drawn by the seed.",
    )
    when = st.text_input(
        "Only where",
        key="when",
        bind=IN_URL,
        placeholder="everywhere",
        help="A gate: a12.h3=417, the code is there; token:REGEX, the token that is read matches; label:TEXT, the "
        "clearest code of a label is there. A code can be asked for at the first edited site or before.",
    )
    a, b, c, d = st.columns(4)
    n_tokens = a.number_input("New tokens", 1, 400, 40, key="tokens", bind=IN_URL)
    temperature = b.number_input("Temperature", 0.0, 5.0, 0.7, 0.1, key="temperature", bind=IN_URL)
    seed = c.number_input(
        "Seed",
        0,
        MOST_SEED,
        0,
        key="seed",
        bind=IN_URL,
        help="Of the texts, the fraction and the random codes; which codes are found does not change with it.",
    )
    random_baseline = d.toggle(
        "Random baseline",
        key="random_baseline",
        bind=IN_URL,
        help="A third text, with as many random codes at the same sites: what any codes would do.",
    )
    chat = d.toggle(
        "Chat message",
        key="chat",
        bind=IN_URL,
        help="Puts the prompt into the model's chat template.",
    )
    pressed = st.form_submit_button("Steer", type="primary")

asked = settings()
# two places: in one and the same the last texts would stay below those that are being written
writing, done = st.empty(), st.empty()
if pressed:
    st.session_state.pop("comparison", None)
    shown = streaming(writing, random_baseline)
    try:
        code_set = None
        if source == BY_NAME:
            codes = parse_codes(given)
        else:
            if source == OF_TOPIC:
                chosen = load_topic(topic)
                positive, negative = chosen.positive, chosen.negative
            else:
                positive, negative = lines(with_it), lines(without_it) or neutral_texts()
            code_set = find(books, made_with(folder, books), positive, negative, by)
            codes = code_set.named(min(top_k or len(code_set), len(code_set)), how)
        if positions == "generated" and begin > 1:
            positions = f"generated:{begin}"
        request = SteeringRequest(
            prompts=(prompt,),
            codes=tuple(codes),
            how=how,
            scale=scale,
            slots=slots,
            positions=positions,
            fraction=fraction,
            when=gate_of(when.strip() or None, books, codes),
            n_tokens=n_tokens,
            temperature=temperature,
            seed=seed,
            chat=chat,
            random_baseline=random_baseline,
            model=engine.model_name(),
            codebooks=str(folder),
        )
        st.session_state["comparison"] = code_set, request, compare(books, request, shown), asked
    except InputError as error:
        engine.say(error)
    writing.empty()

if "comparison" in st.session_state:
    code_set, request, texts, made = st.session_state["comparison"]
    named = made["books"]
    with done.container():
        st.caption(made_by(request, named))
        if told := adds(format_codes(request.codes), label):
            st.caption(f"Codes: {plain(told)}.")
        if made != asked:
            st.info("The settings above have changed since these texts were written: press Steer for others.")
        draw(texts)
        if code_set is not None:
            draw_code_set(code_set, request.codes, named, beside(found))
        draw_again(request, named)
elif not pressed:
    done.caption("Nothing steered yet: name codes, take a preset, or have codes found, and press Steer.")
