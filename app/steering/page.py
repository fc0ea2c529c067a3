"""A prompt continued by the model as it is, with its codes edited, and in other ways beside it; each token opens."""

import contextlib
from collections.abc import Callable
from typing import Any

import streamlit as st

from interp import MOST_SEED
from interp.app import engine
from interp.app.steering import job
from interp.app.steering.comparison import SteeredTexts, draw_again, draw_code_set, draw_costs, streaming, texts
from interp.app.steering.form import BY_NAME, OF_TEXTS, OF_TOPIC, SOURCES, made_by, named, settings, worked
from interp.app.widgets.code_names import beside, labels
from interp.app.widgets.codebook_picker import choose, made_with
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL
from interp.errors import InputError
from interp.steering import CodeSet, SteeringRequest, WeightedCode, load_topic, parse_codes, topic_names
from interp.steering.code_set import OPERATIONS, SCALE
from interp.steering.find import RANKINGS
from interp.steering.request import RANDOM, gate_of, named_codes
from interp.steering.topics import load_presets, neutral_texts

PROMPT = "One day, Tim and his mom went to"
FIRST = "fire"
HELP = {
    "beside": "A difference of means is a vector added in the middle of the model. What is said stands in front of the "
    "prompt. Random codes are as many at the same sites: what any codes would do.",
    "how": "Set: the head's code becomes this one. Added: how the code differs from its codebook's mean is added, as "
    "often as its weight says. Forbidden: the next best code is taken.",
    "scale": "Of codes that are added.",
    "slots": "Of codes that are set: how many of a vector's k codes become the code.",
    "top_k": "Of the codes found, how many are used, best first.",
    "begin": "Of generated positions: the first new token that feels the codes.",
    "fraction": "Of those positions, drawn by the seed.",
    "when": "A gate: a12.h3=417, the code is there; token:REGEX, the token that is read matches; label:TEXT, the "
    "clearest code of a label is there; firing, as far as what is added is there already. A code can be asked for at "
    "the first edited site or before.",
    "seed": "Of the texts, the fraction and the random codes; which codes are found does not change with it.",
    "chat": "Puts the prompt into the model's chat template.",
}


def field(widget: Callable[..., Any], *args: Any, key: str, **options: Any) -> Any:
    """A field with its help, whose value stands in the address."""
    return widget(*args, key=key, bind=IN_URL, help=HELP.get(key), **options)


def lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def usual(source: str) -> tuple[str, float]:
    """Codes that are found are added, so many times; those that are named are set."""
    return ("set", 1.0) if source == BY_NAME else ("added", SCALE)


def suit() -> None:
    """What is chosen below follows the source."""
    st.session_state["how"], st.session_state["scale"] = usual(st.session_state["source"])


def used(code_set: CodeSet, how: str) -> list[WeightedCode]:
    most = st.session_state.get("top_k") or len(code_set)
    return code_set.named(min(most, len(code_set)), how)


st.title("Steering")
st.caption("The same prompt continued by the model as it is, and with some of its codes edited.")
left, right = st.columns([3, 2])
with right:
    folder, books = choose()
names = labels(books)
with engine.saying(stop=True):
    presets = {preset.name: preset for preset in load_presets(made_with(folder, books))}
topics = list(dict.fromkeys([*topic_names(), *presets]))
source = field(left.radio, "Which codes", SOURCES, horizontal=True, key="source", on_change=suit)
if source == OF_TOPIC:
    looks = {"format_func": plain, "label_visibility": "collapsed"}
    topic = field(st.pills, "Topic", topics, default=FIRST, required=True, key="topic", **looks)
listing = st.container()
usual_how, usual_scale = usual(source)
with st.form("steer"):
    if source == BY_NAME:
        field(st.text_area, "Codes", key="codes", height=80, placeholder="a12.h3=417, a14.h0=3*0.5")
    elif source == OF_TEXTS:
        left, right = st.columns(2)
        field(left.text_area, "Texts with it, one a line", key="positive", height=150)
        usual_texts = "if empty: everyday sentences"
        field(right.text_area, "Texts without it", key="negative", height=150, placeholder=usual_texts)
    left, middle, right = st.columns([5, 4, 1.3], vertical_alignment="bottom")
    prompt = field(left.text_area, "Prompt", PROMPT, key="prompt", height=68)
    most = {"max_selections": job.MOST_BESIDE, "placeholder": "nothing else"}
    others = field(middle.multiselect, "Beside base and codes", job.BESIDE, key="beside", **most)
    pressed = right.form_submit_button("Steer", type="primary", width="stretch")
    with st.expander("More"):
        a, b, c, d = st.columns(4)
        how = field(a.selectbox, "Codes are", OPERATIONS, OPERATIONS.index(usual_how), key="how")
        scale = field(b.number_input, "Times", -100.0, 100.0, usual_scale, 0.05, key="scale")
        most_slots = max(book.config.k for book in books.values())
        slots = field(c.number_input, "Slots", 1, most_slots, 1, key="slots")
        if source != BY_NAME:
            field(d.number_input, "How many codes", 1, None, None, key="top_k", placeholder="all")
            field(d.selectbox, "Ranked by", RANKINGS, key="by")
        positions = field(a.selectbox, "Positions", ["generated", "prompt", "all"], key="positions")
        begin = field(b.number_input, "From new token", 1, 400, 1, key="begin")
        fraction = field(c.number_input, "Fraction of tokens", 0.0, 1.0, 1.0, 0.1, key="fraction")
        when = field(d.text_input, "Only where", key="when", placeholder="everywhere")
        n_tokens = field(a.number_input, "New tokens", 1, 400, 40, key="tokens")
        temperature = field(b.number_input, "Temperature", 0.0, 5.0, 0.7, 0.1, key="temperature")
        seed = field(c.number_input, "Seed", 0, MOST_SEED, 0, key="seed")
        title = "Difference of means, times"
        times = field(a.number_input, title, -100.0, 100.0, job.MEANS_TIMES, 0.5, key="times")
        usual_words = f"The following text is about {topic}." if source == OF_TOPIC else ""
        words_in_front = field(b.text_input, job.SAID, key="said", placeholder=usual_words) or usual_words
        chat = field(c.toggle, "Chat message", key="chat")

form, by = settings(), st.session_state.get("by", RANKINGS[0])
contrast, code_set, codes = None, None, []  # contrast: texts with and without, for codes and means
if source == OF_TEXTS:
    contrast = lines(st.session_state["positive"]), lines(st.session_state["negative"]) or neutral_texts()
elif source == OF_TOPIC and topic in topic_names():
    contrast = load_topic(topic).positive, load_topic(topic).negative
elif source == OF_TOPIC and topic in presets:
    codes = parse_codes(presets[topic].codes)
if contrast is not None:
    with contextlib.suppress(InputError):  # pressing Steer says it
        code_set = job.known(made_with(folder, books), *contrast, by)
# two places: in one and the same the last texts would stay below those that are being written
writing, done = st.empty(), st.empty()
if pressed:
    engine.forget()
    try:
        if contrast is not None:
            code_set = job.find(books, made_with(folder, books), *contrast, by)
        elif source == BY_NAME:
            codes = named_codes(st.session_state["codes"], books, how)
        if job.MEANS in others and contrast is None:
            raise InputError(f"{job.MEANS}: its vector is of texts, choose codes {OF_TOPIC} or {OF_TEXTS}")
        if job.SAID in others and not words_in_front.strip():
            raise InputError(f"{job.SAID}: nothing, write it under More")
        if positions == "generated" and begin > 1:
            positions = f"generated:{begin}"
        codes = codes if code_set is None else used(code_set, how)
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
            random_baseline=job.NAMES[RANDOM] in others,
            model=engine.model_name(),
            codebooks=str(folder),
        )
        written = job.compare(
            books,
            request,
            streaming(writing, others),
            vectors=job.difference_of_means(*contrast) if job.MEANS in others else None,
            times=times,
            said=words_in_front if job.SAID in others else None,
        )
        st.session_state["comparison"] = SteeredTexts(request, written, form, books, names)
    except InputError as error:
        engine.say(error)
    writing.empty()
codes = codes if code_set is None else used(code_set, how)
if summary := named(codes, names):
    listing.caption(f"Codes: {plain(summary)}.")
elif contrast is not None and code_set is None:
    listing.caption("Its codes are found when you press Steer: half a minute, once.")

if "comparison" in st.session_state:
    shown: SteeredTexts = st.session_state["comparison"]
    with done.container():
        if shown.made != form:
            st.info("The settings above have changed since these texts were written: press Steer for others.")
        texts(shown)
        st.caption(made_by(shown.request, shown.made["books"]))
        draw_costs(shown.written)
        draw_again(shown)
elif not pressed:
    done.caption("Nothing steered yet: press Steer.")
if codes and source != BY_NAME:
    with st.expander(f"The {len(codes)} codes and how often they worked"):
        if source == OF_TOPIC and topic in presets:
            worked(presets[topic], codes)
        if code_set is not None:
            draw_code_set(code_set, codes, st.session_state["books"], beside(names))
