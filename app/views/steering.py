"""Set codes while the model writes: base and steered side by side, with what each token cost."""

import streamlit as st

from interp.app import engine
from interp.app.books import choose, made_with
from interp.app.share import address
from interp.app.steered import HOW, Comparison, Request, compare, find
from interp.app.tokens import marked, plain, visible, written
from interp.report.token_costs import token_costs
from interp.steering import FoundCodes, load_topic, parse_codes, topic_names
from interp.steering.find import RANKINGS
from interp.steering.presets import Preset, load_presets
from interp.steering.topics import neutral_texts
from interp.tasks.errors import InputError

NAMED, OF_TOPIC, OF_TEXTS = "by name", "of a topic", "of texts"
PROMPT = "Once upon a time, there was a little girl who"
MOST_SEED = 2**31 - 1
IN_URL = "query-params"


def lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def fill(preset: Preset) -> None:
    """The form as a preset says."""
    values = {"source": NAMED, "codes": preset.codes, "prompt": preset.prompt, "how": preset.how}
    values |= {"slots": 1, "scale": preset.scale, "positions": "generated", "begin": 1, "share": 1.0}
    values |= {"temperature": preset.temperature, "tokens": preset.n_tokens, "chat": False}
    for key, value in values.items():
        st.session_state[key] = value


def offer(presets: list[Preset]) -> None:
    """Presets as buttons, and how often the one whose codes are in the form has worked."""
    if not presets:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Presets")
        for preset in presets:
            st.button(preset.name, key=f"preset {preset.name}", on_click=fill, args=(preset,))
    for preset in presets:
        if st.session_state.get("codes") == preset.codes:
            measured = preset.measured
            base, steered, control = (f"{hits} of {measured.n}" for hits in measured.hits)
            plain_one, with_codes, random = (f"{value:.0f}" for value in measured.perplexities)
            st.caption(
                f"{plain(preset.name)}: {steered} texts had one of its words with these codes, {base} without them, "
                f"{control} with random codes of the same heads; perplexity {with_codes}, {plain_one}, {random}. "
                f"{plain(preset.found)}"
            )


def draw(comparison: Comparison) -> None:
    """The texts beside each other."""
    texts = comparison.texts
    tops = (
        max((text.text.surprise.max(initial=0) for text in texts), default=0),
        max((text.divergence.max(initial=0) for text in texts if text.divergence is not None), default=0),
    )
    for column, one in zip(st.columns(len(texts)), texts, strict=True):
        with column.container(border=True, height="stretch"):
            perplexity = one.text.perplexity
            left, right = st.columns(2)
            left.metric(
                f"{one.name}: perplexity",
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
            if perplexity is not None:
                new = [visible(piece) for piece in one.pieces[one.n_prompt :]]
                figure = token_costs(new, one.text.surprise, one.divergence, tops)
                st.plotly_chart(figure, theme="streamlit", key=f"costs of {one.name}")
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


def draw_found(found: FoundCodes, n: int) -> None:
    st.subheader("Codes found")
    st.caption(
        f"{n} of {len(found)} used. Half of the {found.n_positive} texts with it and "
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
                "page": f"/codes?code={code.site}:{code.code}",
            }
            for code in found.codes[:n]
        ],
        hide_index=True,
        column_config={"page": st.column_config.LinkColumn("its page", display_text="what it is")},
        key="found",
    )


def draw_again(comparison: Comparison, request: Request) -> None:
    st.subheader("Again")
    in_python, in_terminal, link = st.tabs(["In Python", "On the command line", "Link"])
    in_python.code(comparison.program, language="python", wrap_lines=True)
    in_terminal.code(comparison.command, language="bash", wrap_lines=True)
    link.code(address(request, st.session_state["books"]), language=None, wrap_lines=True)


st.title("Steering")
st.caption("The same prompt continued twice: by the model as it is, and with some of its codes edited.")
folder, books = choose()
deepest = max(book.config.k for book in books.values())
try:
    offer(load_presets(made_with(folder, books)))
except InputError as error:
    engine.say(error)

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
        like = left.text_area("Texts with it, one a line", key="like", bind=IN_URL, height=150)
        unlike = right.text_area(
            "Texts without it",
            key="unlike",
            bind=IN_URL,
            height=150,
            placeholder="if empty: everyday sentences",
        )
    if source != NAMED:
        left, right = st.columns(2)
        dose = left.number_input(
            "Dose",
            1,
            None,
            40,
            key="dose",
            bind=IN_URL,
            help="Of the codes found, how many are used, best first.",
        )
        by = right.selectbox("Ranked by", RANKINGS, key="by", bind=IN_URL)
    a, b, c, d = st.columns(4)
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
    begin = c.number_input(
        "From new token",
        1,
        400,
        1,
        key="begin",
        bind=IN_URL,
        help="Of generated positions: the first new token that feels the codes.",
    )
    share = d.number_input(
        "Share of tokens",
        0.0,
        1.0,
        1.0,
        0.1,
        key="share",
        bind=IN_URL,
        help="Of those positions, drawn by the seed.",
    )
    a, b, c, d = st.columns(4)
    n_tokens = a.number_input("New tokens", 1, 400, 40, key="tokens", bind=IN_URL)
    temperature = b.number_input("Temperature", 0.0, 5.0, 1.0, 0.1, key="temperature", bind=IN_URL)
    seed = c.number_input("Seed", 0, MOST_SEED, 0, key="seed", bind=IN_URL)
    control = d.toggle(
        "Random codes beside it",
        key="control",
        bind=IN_URL,
        help="A third text, with as many random codes at the same sites: what any codes would do.",
    )
    chat = d.toggle(
        "As a chat message",
        key="chat",
        bind=IN_URL,
        help="Puts the prompt into the model's chat template.",
    )
    pressed = st.form_submit_button("Steer", type="primary")

if pressed:
    st.session_state.pop("comparison", None)
    places = [column.empty() for column in st.columns(3 if control else 2)]
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
            found = find(books, made_with(folder, books), positive, negative, by, seed)
            codes = [(edit.site, edit.code) for edit in found.sets(min(dose, len(found)))]
        if positions == "generated" and begin > 1:
            positions = f"generated:{begin}"
        request = Request(
            prompt,
            tuple(codes),
            how,
            scale,
            slots,
            positions,
            share,
            n_tokens,
            temperature,
            seed,
            chat,
            control,
        )
        comparison = compare(
            folder, books, request, lambda row, text: places[row].html(written(prompt, text))
        )
        st.session_state["comparison"] = found, request, comparison
    except InputError as error:
        engine.say(error)
    for place in places:
        place.empty()

if "comparison" not in st.session_state:
    if not pressed:
        st.caption("Nothing steered yet: name codes, take a preset, or have codes found, and press Steer.")
    st.stop()
found, request, comparison = st.session_state["comparison"]
draw(comparison)
if found is not None:
    draw_found(found, len(comparison.codes))
draw_again(comparison, request)
