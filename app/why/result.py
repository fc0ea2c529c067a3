"""An explanation on its page: made or opened, told, drawn, kept."""

import contextlib
import html
import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from interp.app import engine
from interp.app.why.playing import panel
from interp.app.widgets import run_store
from interp.app.widgets.charts import chart, table
from interp.app.widgets.node_picture import node_picture
from interp.app.widgets.tokens import plain
from interp.contrast import Several, Why, template_of, why, why_several
from interp.contrast.picture import MOST_NODES, page, shown_nodes, svg
from interp.contrast.words import curves, every_node, headline, label, signed
from interp.errors import InputError
from interp.files import unused
from interp.report.style import BLUE, GREEN, GREY, ORANGE, layout

KEEP = "why"  # the folder that an explanation is saved into, with a number behind it where there is one
COLOURS = (BLUE, GREEN, ORANGE, GREY)


def explained(request: dict[str, Any] | None, saved: str | None, typed: dict[str, Any]) -> None:
    """What was asked for, or a saved one; nothing where nothing was."""
    with engine.saying():
        if saved:
            folder = engine.runs() / saved
            key: tuple = saved, run_store.changed(folder / run_store.WHY)
            run_store.check_inside(folder)
            explanation = engine.asked_last("why", key, lambda: _opened(folder))
            python = f"interp.contrast.Why.load({f'{run_store.shown_path()}/{saved}'!r})"
        elif request is not None:
            key = engine.model_name(), *request.values()
            explanation = engine.asked_last("why", key, lambda: _made(request))
            options = "".join(f", {name}={request[name]!r}" for name in ("answer", "instead", "chat") if request[name])
            python = f"interp.why(model, a, b{options})"
            if request != typed:
                st.info("The prompts above have changed. Press Explain.")
        else:
            return
        if st.session_state.get("edits of") != key:  # a link's edits belong to what it opens with
            first = "edits of" not in st.session_state
            edits = [edit for edit in st.query_params.get("edits", "").split(",") if edit]
            st.session_state["edits"] = edits if first else []
            st.session_state["edits of"] = key
        _told(explanation)
        _drawn(explanation, str(key), python)
        _kept(explanation)


def explained_together(a: str, prompts: list[str], chat: bool) -> None:
    """A against each of several prompts: the heads at tokens that are kept, and their mean effect."""

    def make() -> Several:
        with engine.running() as model:
            return why_several(model, a, prompts, chat=chat, stage=engine.stage)

    with engine.saying():
        several = engine.asked_last("together", (engine.model_name(), a, chat, *prompts), make)
        st.caption(
            "Heads at tokens that some explanation keeps: the share of the difference that each makes, in the mean "
            f"over {len(prompts)} prompts B with its 95 % interval, and in how many it is kept."
        )
        rows = [
            {
                "head": node.site,
                "token": f"{label(node.token)} {node.position}",
                "share, mean": f"{node.share:z.0%}",
                "interval": f"{node.low:z.0%} to {node.high:z.0%}",
                "kept in": f"{node.kept_in} of {len(prompts)}",
            }
            for node in several.nodes
        ]
        table(rows, "nodes of several")


def _made(request: dict[str, Any]) -> Why:
    with engine.running() as model:
        answers = {name: request[name] or None for name in ("answer", "instead")}
        return why(model, request["a"], request["b"], **answers, chat=request["chat"], stage=engine.stage)


def _opened(folder: Path) -> Why:
    explanation = Why.load(folder)
    try:
        page(explanation)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / run_store.WHY} does not fit together ({error!r}): make it again") from None
    return explanation


def _told(explanation: Why) -> None:
    first, *more = map(plain, headline(explanation))
    st.markdown(f"{first}  \n**{more[0]}** {' '.join(more[1:])}")
    for note in explanation.notes:
        st.caption(plain(note))


@st.fragment
def _drawn(explanation: Why, key: str, python: str) -> None:
    """All that a click on a node changes: no other part of the page is drawn anew."""
    chosen = f"node of {key}"
    if not explanation.nodes:
        return
    last = (st.session_state["edits"] or [""])[-1].partition("=")[0]
    names = [f"{node.site}@{node.position}" for node in every_node(explanation)]
    st.session_state.setdefault(chosen, names.index(last) if last in names else 0)
    with st.container(key="why-result"):
        left, right = st.columns([13, 7], gap="small")
        n = most = len(explanation.nodes)
        order = shown_nodes(explanation, most)
        with left:
            if most > 1:
                first = min(max(explanation.kept, 1), MOST_NODES)
                if (node := st.session_state[chosen]) in order:  # a link's
                    first = max(first, order.index(node) + 1)
                n = st.slider("Nodes in the picture", 1, most, first, key=f"shown of {key}")
            take = lambda node: st.session_state.__setitem__(chosen, node)  # noqa: E731
            node_picture(svg(explanation, n), st.session_state[chosen], most, "picture", take)
        with right:
            others = range(most, len(every_node(explanation)))
            panel(explanation, chosen, [*order, *others], python)


def _kept(explanation: Why) -> None:
    """The curve, MLPs as nodes, and the explanation as files."""
    left, right = st.columns(2)
    with left:
        st.subheader("What the first nodes do alone")
        chart(_curve(explanation), "curve of why", "Share of the difference that the first nodes restore alone")
    with right:
        st.subheader("Keep it")
        with st.container(horizontal=True):
            if st.button("Save in the runs folder"):
                folder = unused(engine.runs() / KEEP)
                try:
                    explanation.save(folder)
                    st.success(f"Saved as {plain(folder.name)}.")
                except OSError as error:
                    engine.say(InputError(f"{folder} cannot be written ({error.strerror or error})"))
            for name, data, kind in (
                ("SVG", svg(explanation), "image/svg+xml"),
                ("HTML", page(explanation), "text/html"),
                ("JSON", json.dumps(explanation.as_json(), indent=1), "application/json"),
            ):
                st.download_button(name, data, f"why.{name.lower()}", kind, on_click="ignore")
            if (form := _template(explanation)) is not None:
                use = "A task of such prompts: read it, then find its circuit on *Circuit*."
                st.download_button("Template", form, "template.json", help=use, on_click="ignore")
        if (more := explanation.with_mlps) is not None:
            verdict = "are enough" if more.sparse else "are not enough"
            with st.expander(f"With MLPs as nodes: {more.kept} {verdict}"):
                rows = [
                    {"node": node.site, "token": f"{label(node.token)} {node.position}"}
                    | {"effect": signed(node.effect)}
                    for node in more.nodes
                ]
                table(rows, "nodes with MLPs")


def _template(explanation: Why) -> str | None:
    """Both prompts as a template file; ``None`` where they differ in several words."""

    def make() -> str | None:
        with contextlib.suppress(InputError), engine.running() as model:
            return json.dumps(template_of(model, explanation), indent=1)
        return None

    return engine.asked_last("template", (engine.model_name(), explanation.a, explanation.b), make)


def _curve(explanation: Why) -> go.Figure:
    figure, shares = go.Figure(), []
    for (name, rows), colour in zip(curves(explanation).items(), (*COLOURS, GREY), strict=False):
        restored = [row.restored for row in rows]
        shares += restored
        if len(rows) == 1:
            figure.add_hline(*restored, line={"color": GREY, "dash": "dot"}, annotation_text=html.escape(name))
            continue
        nodes, line = [row.nodes for row in rows], {"color": colour}
        figure.add_scatter(x=nodes, y=restored, name=name, mode="lines+markers", line=line)
    figure.update_xaxes(title="nodes", type="log", tickvals=[1, 2, 5, 10, 20])
    bounds = [min(shares) - 0.05, max(shares) + 0.05]
    figure.update_yaxes(title="share restored", tickformat=".0%", range=bounds)
    return layout(figure, height=300, left=60, legend=True)
