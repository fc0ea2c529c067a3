"""The codes of one head on the run's prompts, and what setting one of them does to the metric."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.circuit.reading import OWN, codes, effect, n_pairs, texts
from interp.app.circuit.runs import Opened, model_of
from interp.app.widgets.codebook_picker import choose, name_of
from interp.app.widgets.labels import beside, called, labels
from interp.app.widgets.tokens import coloured, plain
from interp.app.widgets.url_state import IN_URL
from interp.app.widgets.urls import code_pages
from interp.bottlenecks.store import Codebooks
from interp.circuits.circuit import Component
from interp.errors import InputError
from interp.report import wording
from interp.report.circuit_figures import code_plot
from interp.scores.head_codes import SIDES
from interp.steering.code_effect import CodeEffect, PairCodes, mean_with_interval, position, roles_of

IN_ADDRESS = "set"
ALL_TOKENS = "all tokens"
SHOWN = 8
"""Codes listed of a head and role, most used first."""


def codes_section(found: Opened, site: str, index: int) -> None:
    """What the run holds of the head's codes, and on demand those of codebooks that can be set."""
    st.subheader("Its codes")
    part = found.run.component(site)
    if part.codes:
        _stored(part, found)
    wanted = st.toggle(
        f"Read its codes in the codebooks, and set one: runs the first {n_pairs(found)} pairs",
        key="read",
        bind=IN_URL,
    )
    if not wanted:
        return
    left, right = st.columns(2)
    try:
        spec = model_of(found.run)
        with left:
            folder, books = choose(spec)
        read = codes(found, folder, books)
        read.of_head(site, "clean", 0)
    except InputError as error:
        engine.say(error)
        return
    roles = [*roles_of(read.pairs), ALL_TOKENS]
    given = next((name for name in roles if _given(site, name)), _acts_at(part, roles))
    role = right.selectbox(
        "At",
        roles,
        index=roles.index(given),
        key=f"role of {site}",
        help="The token at which codes are counted and set. At first where the head acts, if the run says so.",
    )
    role = None if role == ALL_TOKENS else role
    names = labels(books)
    _strips(found, read, site, index, role, called(names))
    shares = _shares(read, site, role, name_of(folder), beside(names))
    st.dataframe(
        shares,
        hide_index=True,
        key="shares",
        column_config={
            "clean": _percent("on clean prompts"),
            "corrupt": _percent("on corrupt prompts"),
            "page": st.column_config.LinkColumn("its page", display_text="what it is"),
        },
    )
    _set(found, folder, books, read, site, role, [str(row["code"]) for row in shares], called(names))


def _percent(title: str):
    return st.column_config.ProgressColumn(title, format="%.0f %%", min_value=0, max_value=100)


def _given(site: str, role: str) -> str:
    """The code that the address says is set there, if any: ``set=SITE@ROLE=CODE``."""
    text, begin = st.query_params.get(IN_ADDRESS, ""), f"{site}@{role}="
    return text.removeprefix(begin) if text.startswith(begin) else ""


def _acts_at(part: Component, roles: list[str]) -> str:
    """The role at which the head's change of code does most, as the finder saw it; END otherwise."""
    changes = part.evidence.changes if part.evidence else ()
    return next((change.role for change in changes if change.role in roles), roles[0])


def _stored(part: Component, found: Opened) -> None:
    """Shares of prompts with each code of the run's own codebook."""
    every = _most_used({side: dict(getattr(part.codes, side)) for side in SIDES})
    rows = [{"code": code, **percents} for code, percents in every[:SHOWN]]
    left, right = st.columns(2)
    percent = {side: _percent(f"{side} prompts") for side in SIDES}
    with left:
        st.caption(
            f"In the codebook of this run, fitted to its {found.run.n_pairs} pairs: share of prompts "
            f"(and roles) with each code, {min(SHOWN, len(every))} of {len(every)} codes"
        )
        st.dataframe(rows, hide_index=True, column_config=percent, key="stored codes")
    changes = part.evidence.changes if part.evidence else ()
    with right:
        if changes:
            st.caption("Changes of code from clean to corrupt that its effect comes from, to first order")
            st.dataframe(
                [
                    {
                        "at": change.role,
                        "code": f"{change.clean} → {change.corrupt}",
                        "pairs": 100 * change.share,
                        "effect": change.attribution,
                    }
                    for change in changes
                ],
                hide_index=True,
                key="changes",
                column_config={
                    "pairs": st.column_config.NumberColumn(format="%.0f %%"),
                    "effect": st.column_config.NumberColumn(format=f"%+.{found.scale.places}f"),
                },
            )


def _strips(
    found: Opened, read: PairCodes, site: str, index: int, role: str | None, label: Callable[[str, int], str]
) -> None:
    """The tokens of the chosen pair, coloured by the head's strongest code."""
    for side in SIDES:
        names = [wording.token(text).replace("·", " ") for text in texts(found, index, side)[0]]
        ids = read.of_head(site, side, index)[:, 0].tolist()
        at = None if role is None else position(read.pairs[index], role)
        at_head = lambda _, code: label(site, code)  # noqa: E731
        st.html(coloured(f"{site}, {side}", names, ids, at, label=at_head))


def _shares(
    read: PairCodes, site: str, role: str | None, books: str, label: Callable[[str, int], dict[str, str]]
) -> list[dict]:
    every, page = _most_used({side: read.shares(site, role, side) for side in SIDES}), code_pages(books)
    return [
        {"code": code, **label(site, code), **percents, "page": page(site, code)}
        for code, percents in every[:SHOWN]
    ]


def _most_used(shares: dict[str, dict[int, float]]) -> list[tuple[int, dict[str, float]]]:
    """Codes, each with its percentage of the prompts of either side."""
    codes = {*shares["clean"], *shares["corrupt"]}
    found = [(code, {side: 100 * shares[side].get(code, 0.0) for side in SIDES}) for code in codes]
    return sorted(found, key=lambda one: -max(one[1].values()))


def _set(
    found: Opened,
    folder: str | Path,
    books: Codebooks,
    read: PairCodes,
    site: str,
    role: str | None,
    offered: list[str],
    label: Callable[[str, int], str],
) -> None:
    """Choose a code, set it, see the metric."""
    st.subheader("Set a code")
    left, middle, right = st.columns([4, 5, 2], vertical_alignment="bottom")
    side = left.segmented_control(
        "On", [f"{side} prompts" for side in SIDES], default="clean prompts", required=True, key="set on"
    ).removesuffix(" prompts")
    other = "corrupt" if side == "clean" else "clean"
    own = f"its own code on the {other} prompt"
    options = offered if role is None else [own, *offered]
    key, at = f"code of {site} {role} {side}", role or ALL_TOKENS
    given = _given(site, at)
    typed = st.session_state.get(key) or (own if given == OWN and role is not None else given)
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
    st.query_params[IN_ADDRESS] = f"{site}@{at}={OWN if chosen == own else chosen}"
    try:
        code = OWN if chosen == own else _number(chosen)
        result = effect(found, folder, books, site, code, role, side, run=pressed)
    except InputError as error:
        engine.say(error)
        return
    if result is None:
        st.caption(
            f"Sets it at {'every token' if role is None else plain(role)} of the {len(read.pairs)} {side} prompts "
            "and runs them, then does the same with a random code for each prompt. A few seconds."
        )
        return
    _result(found, read, result, chosen, label(site, code) if isinstance(code, int) else "")


def _number(text: str) -> int:
    if not text.strip().isdecimal() or len(text.strip()) > 9:
        raise InputError(
            f"code {wording.token(text, 20)!r}: it is a whole number of at least 0, at most 9 digits"
        )
    return int(text)


def _result(found: Opened, read: PairCodes, result: CodeEffect, chosen: str, label: str) -> None:
    where = "every token" if result.role is None else result.role
    metric = found.run.metric.name
    name = wording.METRIC_NAMES.get(metric, metric)
    change, random, more = (
        _said(found) for found in (result.change(), result.change(random=True), result.beyond())
    )
    what = chosen if not chosen.isdecimal() else f"code {chosen}" + (f" ({label})" if label else "")
    st.markdown(
        f"With {plain(what)} at {plain(where)} the {plain(name)} of the {result.side} prompts changes by "
        f"**{plain(change)}**, with a random code by {plain(random)}: {plain(more)} beyond it "
        f"({len(read.pairs)} pairs, 95 % bootstrap intervals)."
    )
    series = {
        "clean": read.metric[0],
        "corrupt": read.metric[1],
        "code set": result.with_codes,
        "random code": result.with_random,
    }
    rows = []
    for label, values in series.items():
        mean, low, high = mean_with_interval(values)
        rows.append({"prompts": label, "mean": mean, "from": low, "to": high})
    left, right = st.columns([2, 3])
    three = st.column_config.NumberColumn(format="%.3f")
    left.dataframe(
        rows, hide_index=True, key="effect", column_config={"mean": three, "from": three, "to": three}
    )
    right.plotly_chart(
        code_plot(series, name),
        key="effects",
        config={"displayModeBar": False},
        alt=f"{name} of every pair: clean, corrupt, with the code set, with a random code",
    )


def _said(change: tuple[float, float, float]) -> str:
    mean, low, high = (wording.signed(value, 3) for value in change)
    return f"{mean} [{low}, {high}]"
