"""Beside the picture: one node, what it does, and what becomes of both answers when it writes something else."""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import streamlit as st
from markupsafe import Markup

from interp import DEFAULT_MODEL
from interp.app import engine
from interp.app.widgets.tokens import plain
from interp.contrast import Why
from interp.contrast.play import EditOutcome, Play
from interp.contrast.words import details, every_node, label, quoted, signed
from interp.report.style import BLUE, ORANGE

_BAR = "display:grid;grid-template-columns:5.5em 1fr 3em;gap:.15em .6em;align-items:center;font-size:.9em"


def panel(explanation: Why, chosen: str, order: Sequence[int], python: str) -> None:
    """Both answers, a node, and buttons that change what it writes; the edits are in the address. ``chosen``: the key
    of the node that is shown. ``python``: what gives the explanation."""
    bars = st.container()
    node = st.selectbox("Node", order, key=chosen, format_func=lambda i: _name(explanation, i))
    edits: list[str] = st.session_state["edits"]
    outcomes = list[EditOutcome]()
    with engine.saying():
        if edits:
            outcomes = _outcomes(explanation, edits)
    if (edit := _buttons(explanation, node)) is not None:
        with engine.saying():
            outcomes = _outcomes(explanation, [*edits, edit])
            edits = st.session_state["edits"] = [*edits, edit]
    with bars:
        st.html(_bars(explanation, outcomes[-1] if outcomes else None))
    if edits:
        _list(explanation, edits, outcomes)
        st.query_params["edits"] = ",".join(edits)
    else:
        st.query_params.pop("edits", None)
    _about(explanation, node)
    if edits:
        st.code(_python(explanation, edits, python), language="python")


def _outcomes(explanation: Why, edits: Sequence[str]) -> list[EditOutcome]:
    """By the prompts as they were run once for this explanation."""
    key = st.session_state["edits of"]
    if explanation.model not in (None, engine.model_name()):
        raise engine.OtherModelError(
            f"this explanation is of {explanation.model}: choose that model above to change what nodes write"
        )

    def make() -> list[EditOutcome]:
        with engine.running() as model:
            return engine.asked_last("play", (key, id(model)), lambda: Play(model, explanation)).replay(edits)

    return engine.asked_last("outcomes", (key, *edits), make)


def _name(explanation: Why, index: int) -> str:
    node = every_node(explanation)[index]
    return f"{node.site} at {label(node.token)} {node.position}, {signed(node.effect)}"


def _about(explanation: Why, index: int) -> None:
    """What a node looks at, writes and says, and its arrows."""
    node, lines = every_node(explanation)[index], list[str]()
    status = "kept" if index < explanation.kept else "not kept"
    lines.append(f"**Effect** {signed(node.effect)} logits when B's value stands there; {status}")
    lines += [f"**{name}** {plain(line)}" for name, line in details(node).items()]
    for arrow in sorted(explanation.arrows or [], key=lambda arrow: -abs(arrow.direct)):
        if index in (arrow.sender, arrow.receiver):
            other = arrow.receiver if index == arrow.sender else arrow.sender
            to = "To" if index == arrow.sender else "From"
            lines.append(
                f"**{to}** {plain(_name(explanation, other).partition(', ')[0])}: direct {signed(arrow.direct)}, "
                f"in all {signed(arrow.total)}"
            )
    shown, more = lines[:9], lines[9:]
    st.markdown("  \n".join(shown))
    if more:
        with st.expander(f"{len(more)} more arrows"):
            st.markdown("  \n".join(more))


def _buttons(explanation: Why, index: int) -> str | None:
    """The edit that was asked for."""
    node, to = every_node(explanation)[index], None
    at = f"{node.site}@{node.position}"
    with st.container(horizontal=True):
        if st.button("Patch B's value", key="patch", type="primary"):
            to = "b"
        if st.button("Remove", key="remove", help="It writes nothing at this token."):
            to = "0"
    if node.code is not None:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            code = st.number_input("Code", 0, value=int(node.code["b"]), key=f"code of {at}", width=110)
            if st.button("Set code", key="set code"):
                to = f"c{code}"
    return None if to is None else f"{at}={to}"


def _bars(explanation: Why, outcome: EditOutcome | None) -> str:
    """HTML: both answers after A, after B, and with the edits."""
    rows = [Markup("")]
    for name, colour in (("answer", BLUE), ("instead", ORANGE)):
        of = explanation.answers[name]
        shares = [("after A", of["a"]), ("after B", of["b"])]
        if outcome is not None:
            shares.append(("A, edited", getattr(outcome, name)))
        rows.append(Markup('<b style="grid-column:1/-1">{}</b>').format(quoted(of["token"])))
        for when, share in shares:
            rows.append(
                Markup(
                    '<span>{}</span><span style="background:{c};height:.8em;border-radius:3px;min-width:1px;'
                    'width:{:.1f}%"></span><span data-p="{}">{:.0%}</span>'
                ).format(when, 100 * share, f"{name} {when}", share, c=colour)
            )
    return str(Markup('<div style="{}">{}</div>').format(_BAR, Markup("").join(rows)))


def _list(explanation: Why, edits: list[str], outcomes: Sequence[EditOutcome]) -> None:
    """What was done, with a way back."""
    answer, instead = (plain(label(explanation.answers[name]["token"])) for name in ("answer", "instead"))
    lines = list[str]()
    for number, (edit, outcome) in enumerate(zip_longest(edits, outcomes[1:]), 1):
        if outcome is None:
            lines.append(f"{number}. {plain(edit)}")
        else:
            top = f"{plain(quoted(outcome.top))} {outcome.p_top:.0%}"
            shares = f"{answer} {outcome.answer:.0%}, {instead} {outcome.instead:.0%}"
            lines.append(f"{number}. `{edit}`: {shares}, likeliest {top}")
    st.markdown("\n".join(lines))
    with st.container(horizontal=True):
        for name, left in (("Step back", edits[:-1]), ("Clear", [])):
            st.button(name, on_click=_keep(left))


def _keep(edits: list[str]) -> Callable[[], None]:
    return lambda: st.session_state.__setitem__("edits", edits)


def _python(explanation: Why, edits: Sequence[str], explained_by: str) -> str:
    return (
        "import interp\nfrom interp.contrast import replay\n\n"
        f"model = interp.load_model({explanation.model or DEFAULT_MODEL!r})\n"
        + (f"a = {explanation.a!r}\nb = {explanation.b!r}\n" if "(model, a, b" in explained_by else "")
        + f"explanation = {explained_by}\nfor outcome in replay(model, explanation, {edits!r}):\n    print(outcome)"
    )
