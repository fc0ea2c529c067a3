"""Two prompts, and which heads at which tokens make the model say one thing here and another there."""

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain, visible
from interp.app.widgets.url_state import from_address, tell_missing

PAIR = {
    "a": "Then, Mary and John went to the store. John gave a drink to",
    "b": "Then, Mary and John went to the store. Mary gave a drink to",
}
FIELDS = ("a", "b", "answer", "instead")
PROPOSALS = 6  # prompts B that are shown


def fill() -> None:
    """When the page is opened: what its address says, what was asked here before, or the pair that it begins with."""
    if "a" in st.session_state:
        return
    address, name = st.query_params.to_dict(), st.query_params.get("saved")
    fields: dict = {key: value for key, value in address.items() if key in FIELDS}
    if name is not None and name in run_store.folders("explanations"):
        fields |= prompts_of(name)
    if fields or "edits" in address:
        for key in ("why asked", "edits of"):
            st.session_state.pop(key, None)
    last_asked = st.session_state.get("why asked") or {}
    for key in FIELDS:
        st.session_state[key] = (last_asked | fields).get(key, PAIR.get(key, ""))
    st.session_state["chat"] = address.get("chat") == "true" or last_asked.get("chat", False)


def prompts_of(name: str) -> dict[str, str]:
    """Both prompts of a saved explanation."""
    path = engine.runs() / name / run_store.WHY
    return {key: str(run_store.says(path, key) or "") for key in ("a", "b")}


def typed() -> dict:
    """What the fields say."""
    return {key: st.session_state[key] for key in FIELDS} | {"chat": st.session_state["chat"]}


def ask(b: str | None = None) -> None:
    """Explain what the fields say from now on, perhaps with another B."""
    if b is not None:
        st.session_state["b"] = b
    st.session_state["why asked"], st.session_state["saved"] = typed(), None


def open_saved() -> None:
    """Show the prompts of the explanation that was picked."""
    if name := st.session_state["saved"]:
        st.session_state.update(dict.fromkeys(FIELDS, "") | prompts_of(name))


def show_proposals() -> None:
    """Prompts that B could be, each a button, and what holds against all of them."""
    from interp.contrast.proposals import propose

    a, chat = st.session_state["a"], st.session_state["chat"]

    def make():
        with engine.running() as model, st.spinner("Trying other words"):
            return propose(model, a, chat=chat, most=PROPOSALS)

    with engine.saying():
        proposals = engine.asked_last("proposals", (engine.model_name(), a, chat), make)
        if not proposals.proposals:
            st.info("No word of this prompt can be exchanged for one of as many tokens: write B yourself.")
        for i, other in enumerate(proposals.proposals):
            label, change = st.columns([1, 2], vertical_alignment="center")
            text, key = f"{plain(other.was)} → {plain(other.becomes)}", f"proposal {i}"
            label.button(text, key=key, on_click=ask, args=(other.prompt,), width="stretch")
            change.markdown(
                f"**{plain(visible(proposals.top))}** {proposals.p:.0%} → {other.p:.0%}, "
                f"then likeliest **{plain(visible(other.top))}**; KL {other.kl:.2f}"
            )
        prompts = [other.prompt for other in proposals.proposals]
        if len(prompts) > 1 and (st.button("Explain all together") or st.session_state.get("all asked") == prompts):
            from interp.app.why.result import explained_together

            st.session_state["all asked"] = prompts
            explained_together(a, prompts, chat)


def form() -> bool:
    """Prompts, answers and buttons; whether proposals are wanted."""
    names = run_store.folders("explanations")
    tell_missing("saved", names, "explanation")
    from_address("saved", names)
    left, right = st.columns(2)
    left.text_area("Prompt A", key="a", height=100)
    right.text_area("Prompt B", key="b", height=100, help="As many tokens as A has, or with the same last words.")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Explain", type="primary", on_click=ask)
        wanted = st.button("Propose another prompt", help="Exchanges one word of A, and measures what changes.")
        with st.popover("Answers"):
            st.text_input("Answer after A", key="answer", help="With the space in front. Empty: by the KL.")
            st.text_input("Instead, after B", key="instead")
        model = engine.loading().model
        loaded = model.done() and not model.exception()
        if loaded and getattr(model.result().tokenizer, "chat_template", None):
            st.toggle("Chat template", key="chat", help="Puts both prompts into a user's message.")
        if names:
            looks = {"label_visibility": "collapsed", "width": 240}
            st.selectbox("Saved", names, key="saved", on_change=open_saved, placeholder="Saved explanations", **looks)
    for key, value in (typed() | {"saved": st.session_state["saved"] or ""}).items():
        if value == PAIR.get(key, "") or value is False:
            st.query_params.pop(key, None)
        else:
            st.query_params[key] = "true" if value is True else value
    return wanted


st.title("Why")
st.caption(
    "The model says one thing after prompt A and another after prompt B. Which heads at which tokens make the "
    "difference? They are found by patching, and can be played with."
)
fill()
wanted = form()
if not engine.loading().libraries.done():
    engine.libraries()
    st.rerun()  # with the model's name in the corner
if not engine.loading().model.done():
    engine.model()
    st.rerun()  # with what its tokenizer offers
if wanted or not st.session_state["b"].strip():
    st.session_state["proposing"] = st.session_state["a"]
if st.session_state.get("proposing") == st.session_state["a"] and st.session_state["a"].strip():
    show_proposals()

from interp.app.why.result import explained  # noqa: E402 - its libraries are there only now

if "why asked" not in st.session_state:
    st.session_state["why asked"] = typed() if st.session_state["b"].strip() else None
explained(st.session_state["why asked"], st.session_state["saved"], typed())
