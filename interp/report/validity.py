"""The card of ``interp validate`` as a table and as a figure, for the terminal, the report and the workbench."""

import plotly.graph_objects as go

from interp.circuits.circuit import Estimate, Validity
from interp.report.style import BLUE, GREEN, GREY, ORANGE, layout
from interp.report.wording import in_plot, number, percent

COLUMNS = ("asked", "a circuit", "beside it")


def card_rows(card: Validity) -> list[tuple[str, str, str]]:
    circuit, random = card.circuit, card.circuit.random
    shares = f"mean {percent(random.share_mean)}, largest {percent(random.share_largest)}"
    kl, left = (
        f"{number(circuit.kl, 3)} nats",
        f"mean {percent(random.left_mean)}, least {percent(random.left_least)}",
    )
    areas = f"{number(circuit.cmd, 3)}, {number(circuit.cpr, 3)}"
    rows = [
        ("members alone: share of the gap", _estimate(circuit.share), f"{random.draws} random circuits: {shares}"),
        ("members alone: KL from the model", kl, f"random: mean {number(random.kl_mean, 3)}"),
        ("nested circuits: CMD, CPR", areas, "CMD 0 is best; CPR: more is better"),
        ("members off: share that is left", _estimate(circuit.left), f"random off: {left}"),
    ]
    if card.jaccard is not None:
        value, low, high = (number(getattr(card.jaccard, key), 2) for key in ("value", "low", "high"))
        how = "on resampled pairs, same candidates"
        rows.append(("members chosen again: Jaccard", f"{value} [{low}, {high}]", how))
    rows += [
        (
            f"members off: lost of {on.task}",
            percent(on.lost),
            f"random off: {percent(on.lost_random)}, {on.n_pairs} pairs",
        )
        for on in card.tasks
    ]
    rows += [
        (
            f"rival of seed {rival.seed}" + " (most faithful)" * (rival is card.best_rival),
            f"{percent(rival.share)} alone",
            f"{len(rival.heads)} heads, Jaccard {number(rival.jaccard, 2)} with the members",
        )
        for rival in card.rivals
    ]
    return rows


def card_summary(card: Validity) -> str:
    """What the numbers are of, and what they do not say."""
    circuit = card.circuit
    pairs = "held-out pairs" if card.held_out else "of the run’s own pairs"
    return (
        f"A circuit, judged on {circuit.n_pairs} {pairs}: heads replaced by their output on the corrupt prompt, MLPs "
        "live. Random circuits have as many heads in every layer. None of this says that it is the only one."
    )


def curves_plot(card: Validity) -> go.Figure:
    """Share of the gap and KL of the best heads alone, by how many; members and random circuits as points."""
    nested, random = [point for point in card.circuit.nested if point.n_heads], card.circuit.random
    sizes = [point.n_heads for point in nested]
    figure = go.Figure()
    for name, key, colour, dash, axis in (
        ("share, by |effect|", "share", BLUE, {}, "y"),
        ("share, by effect", "share_signed", GREEN, {"dash": "dash"}, "y"),
        ("KL, by |effect|", "kl", ORANGE, {"dash": "dot"}, "y2"),
    ):
        values, line = [getattr(point, key) for point in nested], {"color": colour, "width": 2, **dash}
        figure.add_scatter(x=sizes, y=values, mode="lines", line=line, name=in_plot(name), yaxis=axis)
    for name, share, colour in (
        ("members", card.circuit.share.value, BLUE),
        ("random circuits", random.share_mean, GREY),
    ):
        marker = {"color": colour, "size": 9}
        figure.add_scatter(x=[card.circuit.n_heads], y=[share], mode="markers", marker=marker, name=name)
    figure.update_xaxes(title="heads kept", type="log", dtick="D2")
    figure.update_layout(
        yaxis={"title": "share of the gap", "tickformat": ".0%"},
        yaxis2={"title": "KL, nats", "overlaying": "y", "side": "right", "showgrid": False, "zeroline": False}
        | {"tickmode": "auto"},
    )
    return layout(figure, height=340, left=60, right=60, legend=True)


def _estimate(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" [{percent(estimate.low)}, {percent(estimate.high)}]"
    return percent(estimate.value) + interval
