"""The finite-state experiment as plotly figures."""

from collections.abc import Mapping

import plotly.graph_objects as go

from benchmarks.tokfsm.machine_rows import CODED, Reproduction
from benchmarks.tokfsm.table import NAMES, PUBLISHED, PUBLISHED_JSD, PUBLISHED_PLAIN
from interp.report.style import BLUE, GREEN, GREY, ORANGE, layout
from interp.report.wording import in_plot

ARMS = {CODED: BLUE, "no codebooks": GREEN, "untrained k-means": ORANGE, "random codes": GREY}
ROW, EDGES = 46, 84
"""Pixels of a line of the accuracies, and of the legend and the axis."""


def accuracy_plot(found: Reproduction) -> go.Figure:
    """Every accuracy of every arm with its interval; diamonds are what was published."""
    keys = [key for key in NAMES if key != "loss"]
    labels = [NAMES[key].replace("state accuracy: ", "states: ") for key in keys]
    figure = go.Figure()
    for number, (arm, colour) in enumerate(ARMS.items()):
        its = found.scores.get(arm)
        if its is None:
            continue
        figure.add_scatter(
            x=[its[key].mean for key in keys],
            y=[i + 0.19 * (number - 1.5) for i in range(len(keys))],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [its[key].high - its[key].mean for key in keys],
                "arrayminus": [its[key].mean - its[key].low for key in keys],
                "thickness": 1.4,
                "width": 3,
            },
            mode="markers",
            name=arm,
            marker={"size": 9, "color": colour},
            hovertemplate=f"{arm}: %{{x:.3f}}<extra></extra>",
        )
    for name, given, colour in (("published", PUBLISHED, BLUE), ("", PUBLISHED_PLAIN, GREEN)):
        known = [(i, given[key]) for i, key in enumerate(keys) if key in given]
        figure.add_scatter(
            x=[value for _, value in known],
            y=[i for i, _ in known],
            mode="markers",
            name=name,
            showlegend=bool(name),
            marker={"size": 11, "color": colour, "symbol": "diamond-open", "line": {"width": 2}},
            hovertemplate="published: %{x:.3f}<extra></extra>",
        )
    figure.update_xaxes(range=[0, 1.02], title="share right")
    figure.update_yaxes(
        tickvals=list(range(len(keys))), ticktext=labels, range=[len(keys) - 0.5, -0.5], zeroline=False
    )
    return layout(figure, height=EDGES + ROW * len(keys), left=170, legend=True)


def curve_plot(found: Reproduction) -> go.Figure:
    """State accuracy on the way; the line upright is where the codebooks came in."""
    figure = go.Figure()
    tokens = [point.tokens / 1e6 for point in found.curve]
    for name, values, colour in (
        ("transitions sampled", [point.state_accuracy for point in found.curve], BLUE),
        ("top-10 overlap", [point.top10_overlap for point in found.curve], ORANGE),
    ):
        figure.add_scatter(x=tokens, y=values, mode="lines+markers", name=name, line={"color": colour})
    figure.add_vline(
        x=found.plain_tokens / 1e6,
        line={"color": GREY, "dash": "dot"},
        annotation_text="codebooks from here on",
        annotation_position="top right",
    )
    figure.update_xaxes(title="million tokens", rangemode="tozero")
    figure.update_yaxes(title="state accuracy", range=[0, 1.02])
    return layout(figure, height=280, left=60, legend=True)


def divergence_plot(found: Reproduction) -> go.Figure:
    """What is left of the divergence from the target after setting codes: less is better."""
    places = [place for place in found.divergence[CODED] if place != "none"]
    shown = [in_plot(place) for place in places]
    colours = {CODED: BLUE, "untrained k-means": ORANGE, "another pair's codes": GREY}
    figure = go.Figure()
    for arm, colour in colours.items():
        its: Mapping[str, float] = found.divergence.get(arm, {})
        figure.add_bar(
            x=shown,
            y=[its.get(place) for place in places],
            name=arm,
            marker_color=colour,
            hovertemplate=f"{arm}, %{{x}}: %{{y:.2f}}<extra></extra>",
        )
    known = [place for place in places if place in PUBLISHED_JSD]
    figure.add_scatter(
        x=known,
        y=[PUBLISHED_JSD[place] for place in known],
        mode="markers",
        name="published",
        marker={"size": 11, "color": BLUE, "symbol": "diamond-open", "line": {"width": 2}},
    )
    figure.add_hline(y=1, line={"color": GREY, "dash": "dot"})
    figure.update_xaxes(tickangle=0)
    figure.update_yaxes(title="divergence left", rangemode="tozero")
    return layout(figure, height=300, left=60, legend=True)
