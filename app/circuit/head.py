"""The heads of a circuit: all of them as a grid, in which one is chosen; and that one on one prompt, and its codes."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import LinkColumn, NumberColumn, ProgressColumn

from interp.app import engine
from interp.app.circuit.reading import OWN, codes, effect, n_pairs, texts, token_texts, tokens_written, view
from interp.app.circuit.runs import BY_KEY, Opened, ink, model_of
from interp.app.widgets.charts import chart, clicked, table
from interp.app.widgets.code_names import beside, code_pages, labels
from interp.app.widgets.codebook_picker import choose, name_of
from interp.app.widgets.tokens import coloured, plain
from interp.app.widgets.url_state import IN_URL, choice, from_address
from interp.bottlenecks.store import Codebooks
from interp.circuits.circuit import Component
from interp.circuits.roles import role_name
from interp.errors import InputError
from interp.prompts.pairs import SIDES
from interp.report import wording
from interp.report.circuit_figures import Scale, code_plot, effect_text, grid_plot, pattern_plot, roles_named
from interp.report.page import token_bars
from interp.steering.code_effect import CodeEffect, PairCodes, mean_with_interval, position, roles_of

IN_ADDRESS = "set"
ALL_TOKENS = "all tokens"
SHOWN = 8  # codes listed of a head and role, most used first
_percent = partial(ProgressColumn, format="%.0f %%", min_value=0, max_value=100)


def codes_section(shown: Opened, site: str, index: int) -> None:
    """What the run holds of the head's codes, and on demand those of codebooks that can be set."""
    st.subheader("Its codes")
    part = shown.run.component(site)
    if part.codes or _changes(part):
        _stored(part, shown)
    about = f"Read its codes in the codebooks, and set one: runs the first {n_pairs(shown)} pairs"
    if st.toggle(about, key="read", bind=IN_URL):
        with engine.saying():
            _of_codebooks(shown, part, index)


def _of_codebooks(shown: Opened, part: Component, index: int) -> None:
    site, (left, right) = part.site, st.columns(2)
    spec = model_of(shown.run)
    with left:
        folder, books = choose(spec)
    read = codes(shown, folder, books)
    read.of_head(site, "clean", 0)
    roles = [*roles_of(read.pairs), ALL_TOKENS]
    # at first where the head's change of code does most, as the finder saw it; END otherwise
    acts = [change.role for change in _changes(part) if change.role in roles]
    at = right.selectbox(
        "At",
        roles,
        roles.index(next((name for name in roles if _code_in_address(site, name)), [*acts, roles[0]][0])),
        key=f"role of {site}",
        help="The token at which codes are counted and set. At first where the head acts, if the run says so.",
    )
    role, names = None if at == ALL_TOKENS else at, labels(books)
    label = partial(wording.code_label, names, site)
    for side in SIDES:
        pieces = [wording.token(text).replace("·", " ") for text in texts(shown, index, side)[0]]
        ids = read.of_head(site, side, index)[:, 0].tolist()
        chosen = None if role is None else position(read.pairs[index], role)
        st.html(coloured(f"{site}, {side}", pieces, ids, chosen, label))
    stands_for, page = beside(names), code_pages(name_of(folder))
    used = _most_used({side: read.shares(site, role, side) for side in SIDES})[:SHOWN]
    rows = [{"code": code, **stands_for(site, code), **percents, "page": page(site, code)} for code, percents in used]
    columns = {side: _percent(f"on {side} prompts") for side in SIDES}
    table(rows, "shares", columns | {"page": LinkColumn("its page", display_text="what it is")})
    _set(shown, folder, books, read, site, role, [str(code) for code, _ in used], label)


def _changes(part: Component) -> list:
    return list(part.evidence.changes) if part.evidence else []


def _code_in_address(site: str, role: str) -> str:
    """The code that the address says is set there, if any: ``set=SITE@ROLE=CODE``."""
    text, begin = st.query_params.get(IN_ADDRESS, ""), f"{site}@{role}="
    return text.removeprefix(begin) if text.startswith(begin) else ""


def _stored(part: Component, shown: Opened) -> None:
    """What the run holds: shares of prompts with each code, and the changes of code that its effect comes from."""
    source = shown.run.settings.codes.get("source", "of this run")
    left, right = st.columns(2)
    if part.codes:
        used = _most_used({side: dict(getattr(part.codes, side)) for side in SIDES})
        left.caption(
            f"In the codebooks {source}: share of prompts and roles with each code, "
            f"{min(SHOWN, len(used))} of {len(used)} codes"
        )
        rows: list[dict] = [{"code": code, **percents} for code, percents in used[:SHOWN]]
        table(rows, "stored codes", {side: _percent(f"{side} prompts") for side in SIDES}, left)
    if changes := _changes(part):
        whose = "the program's codes" if source == "program" else "code"
        right.caption(f"Changes of {whose} from clean to corrupt that its effect comes from, to first order")
        rows = [
            {"at": change.role, "code": f"{change.clean} → {change.corrupt}", "pairs": 100 * change.share}
            | {"effect": change.attribution}
            for change in changes
        ]
        effect_column = NumberColumn(format=f"%+.{shown.scale.places}f")
        table(rows, "changes", {"pairs": NumberColumn(format="%.0f %%"), "effect": effect_column}, right)


def _most_used(shares: dict[str, dict[int, float]]) -> list[tuple[int, dict[str, float]]]:
    """Codes, each with its percentage of the prompts of either side."""
    codes = {*shares["clean"], *shares["corrupt"]}
    percents = [(code, {side: 100 * shares[side].get(code, 0.0) for side in SIDES}) for code in codes]
    return sorted(percents, key=lambda entry: -max(entry[1].values()))


def _set(
    shown: Opened,
    folder: str | Path,
    books: Codebooks,
    read: PairCodes,
    site: str,
    role: str | None,
    offered: list[str],
    label: Callable[[int], str],
) -> None:
    st.subheader("Set a code")
    left, middle, right = st.columns([4, 5, 2], vertical_alignment="bottom")
    sides = [f"{side} prompts" for side in SIDES]
    side = left.segmented_control("On", sides, default=sides[0], required=True, key="set on").removesuffix(" prompts")
    other = "corrupt" if side == "clean" else "clean"
    partners = f"its own code on the {other} prompt"
    options = offered if role is None else [partners, *offered]
    key, at = f"code of {site} {role} {side}", role or ALL_TOKENS
    in_address = _code_in_address(site, at)
    typed = st.session_state.get(key) or (partners if in_address == OWN and role is not None else in_address)
    if typed and typed not in options:
        options.append(typed)
    chosen = middle.selectbox(
        "Code",
        options,
        index=options.index(typed) if typed else 0,
        key=key,
        accept_new_options=True,
        placeholder="Type the id of a code",
        help="Codes that the head has on these prompts; any other can be typed.",
    )
    pressed = right.button("Set it", type="primary", key="set", width="stretch")
    if chosen is None:
        st.caption("Choose a code, or type an id.")
        return
    # in words it would be of one side's prompts only
    st.query_params[IN_ADDRESS] = f"{site}@{at}={OWN if chosen == partners else chosen}"
    code = OWN if chosen == partners else _number(chosen)
    result = effect(shown, folder, books, site, code, role, side, run=pressed)
    if result is None:
        st.caption(
            f"Sets it at {'every token' if role is None else plain(role)} of the {len(read.pairs)} {side} prompts "
            "and runs them, then does the same with a random code for each prompt. A few seconds."
        )
        return
    name = label(code) if isinstance(code, int) else ""
    setting = chosen if not chosen.isdecimal() else f"code {chosen}" + (f" ({name})" if name else "")
    _result(shown, read, result, setting)


def _number(text: str) -> int:
    if not text.strip().isdecimal() or len(text.strip()) > 9:
        raise InputError(f"code {wording.token(text, 20)!r}: it is a whole number of at least 0, at most 9 digits")
    return int(text)


def _result(shown: Opened, read: PairCodes, result: CodeEffect, setting: str) -> None:
    token = "every token" if result.role is None else result.role
    name = wording.METRIC_NAMES.get(shown.run.metric.name, shown.run.metric.name)
    changes = result.change(), result.change(random=True), result.beyond()
    numbers = ([wording.signed(value, 3) for value in change] for change in changes)
    change, random, more = (plain(f"{mean} [{low}, {high}]") for mean, low, high in numbers)
    st.markdown(
        f"With {plain(setting)} at {plain(token)} the {plain(name)} of the {result.side} prompts changes by "
        f"**{change}**, with a random code by {random}: {more} beyond it "
        f"({len(read.pairs)} pairs, 95 % bootstrap intervals)."
    )
    series = dict(zip(SIDES, read.metric, strict=True))
    series |= {"code set": result.with_codes, "random code": result.with_random}
    columns = "mean", "from", "to"
    rows = [
        {"prompts": prompts} | dict(zip(columns, mean_with_interval(values), strict=True))
        for prompts, values in series.items()
    ]
    left, right = st.columns([2, 3])
    three = dict.fromkeys(columns, NumberColumn(format="%.3f"))
    table(rows, "effect", three, left)
    with right:
        about = f"{name} of every pair: clean, corrupt, with the code set, with a random code"
        chart(code_plot(series, name), "effects", about)


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
    effect = partial(NumberColumn, format=f"%+.{shown.scale.places}f")
    columns_as = {"low": effect("from"), "high": effect("to"), "effect": effect()}
    columns_as["score"] = NumberColumn(format=scores)
    columns_as["share of gap"] = NumberColumn(format="percent")
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
