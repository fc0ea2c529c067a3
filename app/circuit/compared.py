"""A circuit beside the references of its task and beside another run."""

import numpy as np
import streamlit as st

from interp.app import engine
from interp.app.circuit.runs import Opened, comparison, opened
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.circuits.references import ExactEffects
from interp.errors import InputError
from interp.report import wording
from interp.report.circuit_figures import scores_plot
from interp.report.repeat import reference_command


def compared(found: Opened) -> None:
    """Tables, and the scores of all heads against each other."""
    st.subheader("References")
    if found.run.recovery:
        _references(found)
    else:
        st.caption(
            "No reference for this task on this model with these corrupt prompts comes with the package. This "
            "measures one, the exact effect of every head on other pairs, in a file that "
            "`interp discover --reference FILE` reads:"
        )
        st.code(reference_command(found.run, found.prompts), language="bash")
    st.subheader("Another run")
    _another(found)


def _references(found: Opened) -> None:
    rows = []
    for name, judged in found.run.recovery.items():
        low, high = judged.interval or (None, None)
        rows.append(
            {
                "reference": name,
                "members": f"{judged.n_positive} of {judged.n_heads}",
                "ROC AUC": judged.roc_auc,
                "from": low,
                "to": high,
                "average precision": judged.average_precision,
                "Spearman": judged.spearman,
                "AUC of random": judged.nulls.random_mean,
                "AUC of the layer": judged.nulls.layer_index,
            }
        )
        for share, stricter in judged.stricter.items():
            rows.append(
                {
                    "reference": f"{name}, from {share} of the gap",
                    "members": f"{stricter.n_positive} of {judged.n_heads}",
                    "ROC AUC": stricter.roc_auc,
                    "average precision": stricter.average_precision,
                }
            )
    number = st.column_config.NumberColumn(format="%.3f")
    columns = ("ROC AUC", "average precision", "from", "to", "Spearman", "AUC of random", "AUC of the layer")
    if all(row.get("from") is None for row in rows):
        rows = [{key: value for key, value in row.items() if key not in ("from", "to")} for row in rows]
    st.dataframe(
        rows, hide_index=True, key="references", placeholder="–", column_config=dict.fromkeys(columns, number)
    )
    st.caption(
        "How well the scores rank the reference's members. From, to: 95 % bootstrap interval of the AUC over pairs, "
        "where the method scores every pair by itself. The last two columns are rankings that know nothing of the "
        "task."
    )
    for name, judged in found.run.recovery.items():
        if shared := wording.shared_pairs(judged, found.run.n_pairs):
            st.caption(f"{plain(name)}: {shared}")
        _against(found, name)


def _against(found: Opened, name: str) -> None:
    """The scores against the effects of a measured reference."""
    try:
        reference = found.run.reference(name)
        theirs = reference.members()
    except InputError:  # not at hand, or without a gap of which effects could be a share
        return
    scores = found.run.scores
    if not isinstance(reference, ExactEffects) or reference.effects().shape != scores.shape:
        return
    inside = _members(found)
    reference_inside = {(int(layer), int(head)) for layer, head in np.argwhere(theirs)}
    groups = {
        "in both": sorted(inside & reference_inside),
        "only in this run": sorted(inside - reference_inside),
        "only in the reference": sorted(reference_inside - inside),
    }
    st.plotly_chart(
        scores_plot(reference.effects(), scores, groups, f"exact effect, {name}", "score, this run"),
        key=f"against {name}",
        config={"displayModeBar": False},
        alt=f"Score of every head against its exact effect in {name}",
    )


def _members(found: Opened) -> set[tuple[int, int]]:
    """(layer, head) of every head in the circuit."""
    return {(head.layer, head.head) for head in found.run.circuit.heads}


@st.fragment
def _another(found: Opened) -> None:
    others = [name for name in run_store.folders("runs") if name != found.name]
    if not others:
        st.caption(
            "There is no other run yet: find the circuit again by another method, or with another seed."
        )
        return
    wanted = st.query_params.get("with")
    left, _ = st.columns([1, 1])
    name = left.selectbox(
        "Compare with",
        others,
        index=others.index(wanted) if wanted in others else None,
        key="with",
        placeholder="Choose a run",
    )
    if name is None:
        return
    st.query_params["with"] = name
    try:
        other = opened(name)
        both = comparison(found, other)
    except InputError as error:
        engine.say(error)
        return
    head, *rows = both.rows()
    titles = ["", f"{found.name}: {head[1]}", f"{other.name}: {head[2]}", "together"]
    st.dataframe([dict(zip(titles, row, strict=True)) for row in rows], hide_index=True, key="compared")
    mine, theirs = _members(found), _members(other)
    groups = {
        "in both": sorted(mine & theirs),
        f"only in {found.name}": sorted(mine - theirs),
        f"only in {other.name}": sorted(theirs - mine),
    }
    st.plotly_chart(
        scores_plot(
            found.run.scores, other.run.scores, groups, f"score, {found.name}", f"score, {other.name}"
        ),
        key="both scores",
        config={"displayModeBar": False},
        alt=f"Scores of every head in {found.name} and in {other.name}",
    )
