"""The part *Steering* of the page *Evaluation*: topics brought in by codes, by vectors, and by controls."""

import streamlit as st

from interp.app.evaluation import sources
from interp.app.widgets.charts import table
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL
from interp.evaluation.steering import MeanRate
from interp.report import wording
from interp.report.plots import rate_plot
from interp.report.tables import BASE_FILE, Steering, read_steering


def show() -> None:
    folders = {name: path for name, path in sources.STEERINGS.items() if (path / BASE_FILE).is_file()}
    if not folders:
        st.info(
            "The comparison is in the source code of interp, not in what pip installs. To compare your own topic by "
            "eye, open the page Steering."
        )
        return
    name = st.selectbox("Comparison", list(folders), key="steering", bind=IN_URL)
    result = sources.read(read_steering, folders[name])
    config = result.config
    _, perplexity, distinct_2 = result.base.tried[0]
    st.caption(
        f"{config.n} texts of {config.n_tokens} tokens an arm and topic, at like fluency: of at most {config.tries} "
        f"doses each arm has that which comes nearest, on other texts, to {config.times:g} times the base’s perplexity "
        f"of {perplexity:.1f} or {config.variety:g} of its {distinct_2:.2f} different pairs of words, whichever is "
        "reached first. The texts that are counted can lie on either side of that; what they have is in the table."
    )
    if result.left_out:
        were = "cell of that folder was" if result.left_out == 1 else "cells of that folder were"
        st.warning(f"{result.left_out} {were} made with another model, codebooks, finder or settings: left out.")
    st.plotly_chart(rate_plot(result), alt="Share of texts with a word of the topic, by arm, with intervals")
    st.subheader("Mean of the topics")
    table(arms(result))
    st.caption(
        "In brackets 95 % bootstrap intervals over prompts, so they hold for these topics; over topics: the standard "
        "error of the difference with topics as draws. Wrong topic: another topic’s codes, counted for this one’s "
        "words."
    )
    st.subheader("Topic by topic")
    topic = st.segmented_control(
        "Topic", result.topics, default=result.topics[0], required=True, format_func=plain, key=f"topic, {name}"
    )
    table(lines(result, topic))
    st.caption(
        "Rate with Wilson’s 95 % interval. The texts are the first that each arm wrote, all from the same prompt and "
        "seed."
    )


def arms(steering: Steering) -> list[dict]:
    return [
        {
            "arm": row.arm,
            "topics": len(row.topics),
            "rate [95 %]": _rate(row.rate),
            "codes, same topics": _rate(row.codes),
            "codes minus it [95 %]": _less(row.less),
            "± over topics": wording.DASH if row.error is None else f"{100 * row.error:.1f}",
            "perplexity": wording.number(row.perplexity, 1),
            "distinct-2": wording.number(row.distinct_2, 2),
        }
        for row in steering.table.by_arm
    ]


def lines(steering: Steering, topic: str) -> list[dict]:
    return [
        {
            "arm": row.arm,
            "rate [95 %]": f"{100 * row.rate:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]",
            "codes minus it [95 %]": _less(row.less),
            "dose": row.cell.dose,
            "perplexity": wording.number(row.cell.perplexity, 1),
            "distinct-2": wording.number(row.cell.distinct_2, 2),
            "its first text": row.cell.example,
        }
        for row in steering.table.by_topic
        if row.topic == topic
    ]


def _rate(rate: MeanRate) -> str:
    return f"{100 * rate.rate:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _less(rate: MeanRate | None) -> str:
    if rate is None:
        return wording.DASH
    mean, low, high = (wording.signed(100 * value, 1) for value in (rate.rate, rate.low, rate.high))
    return f"{mean} [{low}, {high}]"
