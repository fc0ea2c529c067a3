"""A circuit judged: by what a sceptic asks, by the references of its task, and beside another run."""

import numpy as np
import streamlit as st

from interp.app import engine
from interp.app.circuit.runs import Opened, comparison, opened
from interp.app.widgets import run_store
from interp.app.widgets.charts import chart, command, table
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import from_address
from interp.circuits.references import ExactEffects
from interp.errors import InputError
from interp.report import wording
from interp.report.circuit_figures import scores_plot
from interp.report.repeat import reference_command
from interp.report.validity import COLUMNS, card_rows, card_summary, curves_plot


def validity(shown: Opened) -> None:
    """The card of ``interp validate``: curves, table, and what could not be told; or the command that makes it."""
    card = shown.run.validity
    if card is None:
        st.caption(
            "Is this circuit faithful, complete, stable, specific to its task, and the only one? This asks, with "
            "random circuits beside it. It takes minutes, so it is no part of a discovery:"
        )
        command(["interp", "validate", f"{run_store.shown_path()}/{shown.name}"])
        return
    st.caption(plain(card_summary(card)))
    about = "Share of the gap and KL of nested circuits alone, by number of heads"
    chart(curves_plot(card), "validity", about)
    table([dict(zip(COLUMNS, row, strict=True)) for row in card_rows(card)], "card")
    for why in card.left_out:
        st.caption(plain(why))


def compared(shown: Opened) -> None:
    st.subheader("References")
    if shown.run.recovery:
        _references(shown)
    else:
        st.caption(
            "No reference for this task on this model with these corrupt prompts comes with the package. This "
            "measures one, the exact effect of every head on other pairs, in a file that "
            "`interp discover --reference FILE` reads:"
        )
        st.code(reference_command(shown.run, shown.prompts), language="bash")
    st.subheader("Another run")
    _another(shown)


def _references(shown: Opened) -> None:
    rows = []
    bounded = any(judged.interval for judged in shown.run.recovery.values())
    for name, judged in shown.run.recovery.items():
        low, high = judged.interval or (None, None)
        rows.append(
            {
                "reference": name,
                "members": f"{judged.n_positive} of {judged.n_heads}",
                "ROC AUC": judged.roc_auc,
                **({"from": low, "to": high} if bounded else {}),
                "average precision": judged.average_precision,
                "Spearman": judged.spearman,
                "AUC of random": judged.nulls.random_mean,
                "AUC of the layer": judged.nulls.layer_index,
            }
        )
        rows += [
            {
                "reference": f"{name}, from {share} of the gap",
                "members": f"{stricter.n_positive} of {judged.n_heads}",
                "ROC AUC": stricter.roc_auc,
                "average precision": stricter.average_precision,
            }
            for share, stricter in judged.stricter.items()
        ]
    numbers = dict.fromkeys([*rows[0]][2:], st.column_config.NumberColumn(format="%.3f"))
    table(rows, "references", numbers, placeholder="–")
    st.caption(
        "How well the scores rank the reference's members. From, to: 95 % bootstrap interval of the AUC over pairs, "
        "where the method scores every pair by itself. The last two columns are rankings that know nothing of the "
        "task."
    )
    for name, judged in shown.run.recovery.items():
        if shared := wording.shared_pairs(judged, shown.run.n_pairs):
            st.caption(f"{plain(name)}: {shared}")
        _against(shown, name)


def _against(shown: Opened, name: str) -> None:
    """The scores against the effects of a measured reference."""
    try:
        reference = shown.run.reference(name)
        in_reference = reference.members()
    except InputError:  # not at hand, or without a gap of which effects could be a share
        return
    scores = shown.run.scores
    if not isinstance(reference, ExactEffects) or reference.effects().shape != scores.shape:
        return
    members = {(int(layer), int(head)) for layer, head in np.argwhere(in_reference)}
    groups = _groups(_members(shown), members, "this run", "the reference")
    figure = scores_plot(reference.effects(), scores, groups, f"exact effect, {name}", "score, this run")
    chart(figure, f"against {name}", f"Score of every head against its exact effect in {name}")


Heads = set[tuple[int, int]]  # (layer, head) of each


def _members(shown: Opened) -> Heads:
    return {(head.layer, head.head) for head in shown.run.circuit.heads}


def _groups(heads_a: Heads, heads_b: Heads, a: str, b: str) -> dict[str, list[tuple[int, int]]]:
    return {
        "in both": sorted(heads_a & heads_b),
        f"only in {a}": sorted(heads_a - heads_b),
        f"only in {b}": sorted(heads_b - heads_a),
    }


@st.fragment
def _another(shown: Opened) -> None:
    others = [name for name in run_store.folders("runs") if name != shown.name]
    if not others:
        st.caption("There is no other run yet: find the circuit again by another method, or with another seed.")
        return
    from_address("with", others)
    left, _ = st.columns([1, 1])
    name = left.selectbox("Compare with", others, None, key="with", placeholder="Choose a run")
    if name is None:
        return
    st.query_params["with"] = name
    with engine.saying():
        other = opened(name)
        head, *rows = comparison(shown, other).rows()
        titles = ["", f"{shown.name}: {head[1]}", f"{name}: {head[2]}", "together"]
        table([dict(zip(titles, row, strict=True)) for row in rows], "compared")
        groups = _groups(_members(shown), _members(other), shown.name, name)
        axes = f"score, {shown.name}", f"score, {name}"
        figure = scores_plot(shown.run.scores, other.run.scores, groups, *axes)
        chart(figure, "both scores", f"Scores of every head in {shown.name} and in {name}")
