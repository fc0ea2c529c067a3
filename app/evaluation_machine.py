"""The part *Finite-state machine* of the page *Evaluation*: the published experiment, done again."""

import shlex

import streamlit as st

from interp.app import engine, shelf
from interp.app import evaluation_sources as sources
from interp.app.address import IN_URL
from interp.report import wording
from interp.report.machine_plot import ARMS, accuracy_plot, curve_plot, divergence_plot
from interp.report.machine_rows import CODED, Estimate, Reproduction
from interp.tasks.errors import InputError
from interp.tokfsm.table import (
    NAMES,
    PHASE,
    PUBLISHED,
    PUBLISHED_ALIVE,
    PUBLISHED_PLAIN,
    PUBLISHED_PRECISION,
    PUBLISHED_PURITY,
)


def command() -> str:
    out = f"{shelf.shown_path()}/tokfsm"
    return shlex.join(["interp", "reproduce", "tokfsm", "--scale", "quick", "--out", out])


def show() -> None:
    st.caption(
        "A small transformer trained on walks of a machine of 100 states, with a codebook at every head and MLP "
        "(Tamkin, Taufeeque & Goodman 2023)."
    )
    files = sources.reproductions()
    if not files:
        st.info(
            "The experiment has not been run yet. In a terminal (about half an hour of one core; it resumes):"
        )
        st.code(command(), language="bash")
        return
    name = st.selectbox("Reproduction", list(files), key="machine", bind=IN_URL)
    try:
        found = sources.reproduction(files[name])
    except InputError as error:
        engine.say(error)
        return
    coded, precision = found.scores[CODED], found.precision["codes"]
    alive = sum(found.alive.values()) / len(found.alive)
    numbers = (
        ("Loss, nats a token", wording.number(coded["loss"].mean, 3), f"published {PUBLISHED['loss']}"),
        (
            "State accuracy",
            wording.percent(coded["transition_accuracy"].mean),
            f"published {wording.percent(PUBLISHED['transition_accuracy'])}",
        ),
        (
            "Codes alive",
            wording.percent(alive),
            f"published ≤ {wording.percent(max(PUBLISHED_ALIVE))}",
        ),
        (
            "State precision",
            wording.percent(precision.mean),
            f"published {wording.percent(PUBLISHED_PRECISION['codes'])}",
        ),
    )
    for column, (label, value, more) in zip(st.columns(4), numbers, strict=True):
        column.metric(label, value, more, delta_color="off", delta_arrow="off", border=True)
    st.caption(
        f"{found.n_codes} codes, {found.tokens / 1e6:.1f} M tokens, of which {found.plain_tokens / 1e6:.1f} M before "
        f"there were codebooks; seed {found.seed}. Published: 10 000 codes, 2 600 M tokens."
    )
    st.subheader("Against its controls")
    st.plotly_chart(
        accuracy_plot(found),
        width="stretch",
        theme="streamlit",
        alt="Every accuracy with codes, without codebooks and of the controls; the same as the table below",
    )
    st.dataframe(scores(found), hide_index=True)
    st.caption(
        "Mean and 95 % interval over sequences (top-10 overlap: over states). No codebooks, untrained k-means: the "
        "model when the codebooks came in, on fewer tokens. Random codes: every code drawn at random. Diamonds: "
        "published. A digit that is forbidden is nearly always right a digit earlier or later: the text loses count of "
        "which digits begin a state, and is from there on a walk that is allowed if read one digit off."
    )
    st.subheader("On the way")
    st.plotly_chart(
        curve_plot(found), width="stretch", theme="streamlit", alt="Loss over the tokens of the training"
    )
    st.subheader("After setting codes")
    st.plotly_chart(
        divergence_plot(found),
        width="stretch",
        theme="streamlit",
        alt="Divergence left when the codes of groups of sites are set",
    )
    st.caption(
        f"Divergence from the target’s prediction over {found.n['pairs']} pairs, 1 without intervention: the less, the "
        "more the codes carry."
    )
    st.subheader("What the codes stand for")
    st.dataframe(layers(found), hide_index=True)
    st.dataframe(precisions(found), hide_index=True)
    st.caption(f"Precision of codes at recall {wording.percent(found.recall.mean)}, of neurons at the same.")
    st.caption("The same again:")
    st.code(found.command, language="bash", wrap_lines=True)


def scores(found: Reproduction) -> list[dict]:
    """A line a number, a column an arm, what was published beside it."""
    rows = []
    for key, name in (NAMES | PHASE).items():
        if key not in found.scores[CODED]:
            continue
        given, plain = PUBLISHED.get(key), PUBLISHED_PLAIN.get(key)
        row: dict = {"": name}
        for arm in (arm for arm in ARMS if arm in found.scores):
            row[arm] = estimate(found.scores[arm][key])
            if arm == CODED:
                row["published"] = wording.number(given, 3)
            if arm == "no codebooks":
                row["published without"] = wording.number(plain, 3)
        rows.append(row)
    return rows


def layers(found: Reproduction) -> list[dict]:
    """By layer: codes alive, and purity of the MLP's, ours and published."""
    n_layers = len({site[1:] for site in found.alive})
    return [
        {
            "layer": layer,
            "heads alive": wording.percent(found.alive.get(f"a{layer}")),
            "MLP alive": wording.percent(found.alive.get(f"m{layer}")),
        }
        | {
            f"purity, {kind}s": _beside(found.purity[kind].get(f"m{layer}"), given, layer)
            for kind, given in PUBLISHED_PURITY.items()
        }
        for layer in range(n_layers)
    ]


def _beside(ours: float | None, published: tuple[float, ...], layer: int) -> str:
    given = wording.percent(published[layer]) if layer < len(published) else wording.DASH
    return f"{wording.percent(ours)} (published {given})"


def precisions(found: Reproduction) -> list[dict]:
    """How well states are told: by codes, by neurons at the same recall, by codes that were not trained."""
    given = {"codes": PUBLISHED_PRECISION["codes"], "best neuron": PUBLISHED_PRECISION["neuron"]}
    return [
        {"state told by": who, "precision": estimate(value), "published": wording.number(given.get(who), 3)}
        for who, value in found.precision.items()
    ]


def estimate(value: Estimate) -> str:
    mean, low, high = (wording.number(part, 3) for part in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"
