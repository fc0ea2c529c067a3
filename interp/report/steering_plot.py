"""How often steered texts hold their topic, arm by arm, as a plotly figure."""

import plotly.graph_objects as go

from interp.evaluation.steering_table import CODES, TopicRow
from interp.report.plot_style import BLUE, GREEN, GREY, ORANGE, layout
from interp.report.steering_rows import Steering
from interp.report.wording import in_plot

MARKS = {
    CODES: (BLUE, "circle"),
    "mean difference, heads": (GREEN, "circle"),
    "mean difference, same heads": (GREEN, "circle-open"),
    "mean difference, residual": (ORANGE, "circle"),
    "base": (GREY, "line-ns-open"),
    "random codes": (GREY, "circle-open"),
    "random vectors": (GREY, "diamond-open"),
    "wrong topic": (GREY, "x-thin-open"),
}
"""Colour and symbol: codes, vectors, and what says how little is to be expected of anything."""
ROW, EDGES = 66, 96
"""Pixels of a topic, and of the legend and the axis."""


def rate_plot(found: Steering) -> go.Figure:
    """Every topic's rate by every arm with its 95 % interval, arms a little above each other."""
    figure = go.Figure()
    arms = [arm for arm in MARKS if any(row.arm == arm for row in found.table.by_topic)]
    for number, arm in enumerate(arms):
        colour, symbol = MARKS[arm]
        rows: list[TopicRow] = [row for row in found.table.by_topic if row.arm == arm]
        figure.add_scatter(
            x=[row.rate for row in rows],
            y=[
                found.topics.index(row.topic)
                + 0.8 * ((number + 0.5) / len(arms) - 0.5)  # topics fill .8 of a row
                for row in rows
            ],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row.high - row.rate for row in rows],
                "arrayminus": [row.rate - row.low for row in rows],
                "thickness": 1.4,
                "width": 3,
            },
            mode="markers",
            name=arm,
            marker={"size": 9, "color": colour, "symbol": symbol},
            customdata=[
                [in_plot(row.topic), row.low, row.high, row.cell.perplexity, row.cell.distinct_2]
                for row in rows
            ],
            hovertemplate=(
                f"%{{customdata[0]}}, {arm}: %{{x:.0%}} [%{{customdata[1]:.0%}}, %{{customdata[2]:.0%}}]<br>"
                "perplexity %{customdata[3]:.1f}, distinct-2 %{customdata[4]:.2f}<extra></extra>"
            ),
        )
    figure.update_xaxes(range=[-0.01, 1.02], tickformat=".0%", title="texts that hold a word of the topic")
    figure.update_yaxes(
        tickvals=list(range(len(found.topics))),
        ticktext=[in_plot(topic) for topic in found.topics],
        range=[len(found.topics) - 0.5, -0.5],
        zeroline=False,
    )
    return layout(figure, height=EDGES + ROW * len(found.topics), left=90, legend=True)
