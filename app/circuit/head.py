"""The heads of a circuit: all of them as a grid, in which one is chosen, and that one on one prompt."""

from collections.abc import Container
from dataclasses import dataclass
from functools import partial

import plotly.graph_objects as go
import streamlit as st

from interp.app import engine
from interp.app.circuit.head_codes import codes_section
from interp.app.circuit.reading import n_pairs, texts, token_texts, tokens_written, view
from interp.app.circuit.runs import BY_KEY, Opened, ink
from interp.app.widgets.charts import chart, clicked, table
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import choice, from_address
from interp.circuits.circuit import Component
from interp.circuits.roles import role_name
from interp.errors import InputError
from interp.prompts.pairs import SIDES
from interp.report import wording
from interp.report.circuit_figures import Scale, effect_text, grid_plot, pattern_plot, roles_named
from interp.report.page import token_bars


@dataclass
class Ring:
    """Which head is ringed in the browser, which does that by itself when one is clicked.

    Only what it does not know is drawn: the figure is sent anew where the head was chosen in another way.
    """

    drawn: str = ""  # by the figure as it was last sent
    clicked: str = ""  # since then
    turn: int = 0  # how many were sent; in every point, so that a click on a head that was clicked before is news

    def follow(self, site: str) -> None:
        if site != (self.clicked or self.drawn):
            self.drawn, self.clicked, self.turn = site, "", self.turn + 1


def grid(shown: Opened, ring: Ring, site: str, sites: Container[str]) -> None:
    """All heads, the chosen one ringed; a click on another puts it into the session's ``head``."""
    key = f"grid of {shown.name}"
    ring.follow(site)

    def take() -> None:
        if (head := clicked(key)) in sites:
            ring.clicked = st.session_state["head"] = head
        else:  # the ring was taken away
            ring.drawn = ring.clicked = ""

    figure = _figure(shown, ink(), ring.drawn, ring.turn)
    about = "Score of every head by layer, members outlined; the same as the box Head below"
    chart(figure, key, about, on_select=take, selection_mode="points")
    st.caption(
        "Colour: the method's score. Numbers: exact effect of the checked heads in % of the gap between clean and "
        "corrupt prompts. Outlined: members. Click a head."
    )


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=BY_KEY)
def _figure(shown: Opened, text: str, drawn: str, turn: int) -> go.Figure:
    return grid_plot(shown.run, shown.scale, text, drawn, turn)


def members(shown: Opened) -> None:
    columns = ("site", "score", "effect", "low", "high")
    rows = [
        {key: getattr(part, key) for key in columns}
        | {"share of gap": shown.scale.share(part.effect), "looks like": role_name(part.roles)}
        for part in shown.run.members
    ]
    scores = f"%{'+' if shown.scale.has_sign else ''}.{shown.scale.score_places}f"
    effect = partial(st.column_config.NumberColumn, format=f"%+.{shown.scale.places}f")
    columns_as = {"low": effect("from"), "high": effect("to"), "effect": effect()}
    columns_as["score"] = st.column_config.NumberColumn(format=scores)
    columns_as["share of gap"] = st.column_config.NumberColumn(format="percent")
    with st.expander(f"All {len(rows)} members as a table"):
        table(rows, "members", columns_as)


def heads(shown: Opened) -> None:
    ring = st.session_state.setdefault(f"ring of {shown.name}", Ring())
    ring.drawn = ring.clicked = ""  # the browser may have no figure any more
    _heads(shown, ring)
    members(shown)


@st.fragment
def _heads(shown: Opened, ring: Ring) -> None:
    """Everything that a click on a head changes: no other part of the page is drawn anew."""
    run, scale = shown.run, shown.scale
    parts = {head.site: head for head in run.heads}
    members_first = [head.site for head in run.circuit.heads]
    others = sorted((s for s in parts if s not in members_first), key=lambda s: -abs(parts[s].score))
    sites, pairs = [*members_first, *others], [str(i + 1) for i in range(n_pairs(shown))]
    from_address("head", sites, sites[0])
    from_address("pair", pairs, "1")
    above = st.container()
    left, middle, right = st.columns([5, 3, 3], vertical_alignment="bottom")
    site = left.selectbox(
        "Head",
        sites,
        format_func=lambda name: _label(parts[name], scale),
        key="head",
        help="The members first, largest effect first. Or click it in the grid.",
    )
    pair = middle.selectbox("Pair", pairs, key="pair", help="Of the run's prompts, the first ones.")
    side = choice("Prompt", SIDES, "side", place=right)
    st.query_params["head"], st.query_params["pair"] = site, pair
    with above:
        grid(shown, ring, site, parts)
    st.markdown(_line(parts[site], scale))
    with engine.saying():
        _on_prompt(shown, site, int(pair) - 1, side)
    codes_section(shown, site, int(pair) - 1)


def _label(part: Component, scale: Scale) -> str:
    words = [part.site, "member" if part.in_circuit else "", scale.score(part.score), role_name(part.roles)]
    return " · ".join(filter(None, words))


def _line(part: Component, scale: Scale) -> str:
    named = [f"{role} {value:.2f}" for role, value in roles_named(part.roles)]
    words = [
        "member" if part.in_circuit else "not a member",
        f"score {scale.score(part.score)}",
        effect_text(part, scale),
        f"looks like {', '.join(named)}" if named else "looks like no known kind",
    ]
    return f"**{plain(part.site)}** · " + " · ".join(plain(word) for word in words)


def _on_prompt(shown: Opened, site: str, index: int, side: str) -> None:
    """Where the head attends and what it writes; from the run if it holds that, else from one forward pass."""
    part, pattern = shown.run.component(site), shown.run.pattern(site)
    names, roles = texts(shown, index, side)
    if index == 0 and side == "clean" and part.writes is not None and pattern is not None:
        top, bottom = part.writes.top, part.writes.bottom
        direct = (
            f"Directly it adds **{plain(wording.signed(part.direct, 3))}** to the logit difference, the mean of "
            "the run's pairs. The tokens are those of this prompt."
        )
    else:
        pair_view, place = view(shown, index), (side, part.layer, part.head)
        pattern = pair_view.pattern(*place)
        try:
            top, bottom = tokens_written(shown, pair_view, *place)
            direct = _direct(shown, pair_view, *place)
        except InputError as error:
            top, bottom, direct = [], [], f"Not shown: {plain(str(error))}."
    left, right = st.columns(2)
    with left:
        st.subheader("Where it attends")
        about = f"Attention pattern of {site} on the {side} prompt"
        chart(pattern_plot(pattern, names, roles, ink()), "pattern", about)
    with right:
        st.subheader("What it writes at END")
        st.markdown(direct)
        if top:
            st.html(token_bars([("raises most", top), ("lowers most", bottom)]))


def _direct(shown: Opened, pair_view, side: str, layer: int, head: int) -> str:
    right, wrong = pair_view.direct(side, layer, head)
    answers, others = (
        plain(", ".join(token_texts(shown, ids[:2])) + ("…" if len(ids) > 2 else ""))
        for ids in (pair_view.pair.answers, pair_view.pair.wrong_answers)
    )
    values = right, wrong, right - wrong, pair_view.metric[SIDES.index(side)]
    to_answer, to_wrong, difference, metric = (plain(wording.signed(value, 3)) for value in values)
    return (
        f"Directly it adds **{to_answer}** to the answer {answers} and **{to_wrong}** to the wrong {others}: "
        f"**{difference}** to their difference. The model's metric here is {metric}."
    )
