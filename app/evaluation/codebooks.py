"""The part *Codebooks* of the page *Evaluation*: what passing through codes costs the model."""

import streamlit as st

from interp.app import engine
from interp.app.evaluation import sources
from interp.app.widgets import run_store
from interp.app.widgets.charts import command, table
from interp.app.widgets.codebook_picker import fit_command
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, choice
from interp.errors import InputError
from interp.report import wording
from interp.report.plots import explained_plot, increase_plot
from interp.report.tables import ConditionCosts, Quality, Usage, read_quality


def show() -> None:
    qualities: dict[str, Quality] = {}
    for name, path in sources.qualities().items():
        try:
            qualities[name] = sources.read(read_quality, path)
        except InputError as error:
            engine.say(error)
    waiting = sources.unmeasured()
    if waiting:
        st.info(f"Not measured yet: {plain(', '.join(waiting))}. A command in a terminal measures one:")
        command(["interp", "codebook", "eval", f"{run_store.shown_path()}/{waiting[0]}"])
    elif not qualities:
        st.info("No codebooks have been measured yet. Make some in a terminal, then reload this page:")
        st.code(fit_command(), language="bash")
    if not qualities:
        return
    table(overview(qualities))
    left, right = st.columns(2)
    name = left.selectbox("Codebooks", list(qualities), key="quality", bind=IN_URL)
    quality = qualities[name]
    texts = {text.spec: text for text in quality.texts}
    text = texts[choice("Held-out text", list(texts), "heldout", place=right, format_func=plain)]
    st.caption(
        f"{len(quality.sites)} codebooks of {quality.n_codes} codes for {plain(quality.model or 'a model')}, "
        f"{plain(quality.selection)} selection, fitted on {quality.fit_tokens:,} tokens of {plain(quality.fitted_on)}; "
        f"measured on {text.n_blocks} blocks of {text.context} tokens, all codebooks in place at once."
    )
    for codes in text.codes():
        cards(*codes)
    st.subheader("What it costs, and what controls cost")
    st.plotly_chart(
        increase_plot(text.conditions),
        alt="CE increase of the model on codes beside its controls; the same as the table below",
    )
    if not any(condition.is_control for condition in text.conditions):
        st.caption("No control was measured with these: interp codebook eval measures them unless told --controls 0.")
    table([line(condition) for condition in text.conditions])
    st.caption(
        "Cross-entropy and KL in nats a token; 95 % bootstrap over blocks of text. Controls may be on fewer blocks: "
        "their rise is over the plain model on those, not over the line above."
    )
    for k, usage in text.usage.items():
        st.subheader(f"How much of each site the codes hold, k = {k}")
        st.plotly_chart(
            explained_plot(usage.explained_sites), alt="Share of the variance that codes explain, site by site"
        )


def overview(qualities: dict[str, Quality]) -> list[dict]:
    """One line a folder, text and k."""
    return [
        {
            "codebooks": name,
            "k": k,
            "codes": quality.n_codes,
            "text": text.spec,
            "CE rise": interval(condition),
            "KL": wording.number(condition.kl, 2),
            "same top token": wording.percent(condition.agreement),
            "variance explained": wording.number(usage.explained, 2),
            "dead when fitted": wording.percent(usage.dead_when_fitted),
            "bits a token": f"{usage.bits:.0f} of {usage.bits_most:.0f}",
        }
        for name, quality in qualities.items()
        for text in quality.texts
        for k, condition, usage in text.codes()
    ]


def cards(k: int, condition: ConditionCosts, usage: Usage) -> None:
    """The numbers of one k that are looked for first."""
    low, high = (wording.signed(end, 2) for end in (condition.low, condition.high))
    agreeing, unseen = wording.percent(condition.agreement), wording.percent(usage.dead_here)
    least = wording.number(usage.explained_least, 2)
    numbers = (
        (f"CE rise, k = {k}", wording.signed(condition.increase, 3), f"nats a token; 95 % {low} to {high}"),
        ("KL from the plain model", wording.number(condition.kl, 3), f"same top token at {agreeing}"),
        ("Variance explained", wording.number(usage.explained, 2), f"least of any codebook {least}"),
        ("Dead codes", wording.percent(usage.dead_when_fitted), f"{unseen} not in this text"),
    )
    for column, (name, value, more) in zip(st.columns(4), numbers, strict=True):
        column.metric(name, value, more, delta_color="off", delta_arrow="off", border=True)


def line(condition: ConditionCosts) -> dict:
    is_plain = condition.name == "plain"
    return {
        "condition": condition.name,
        "kind": "control" if condition.is_control else "model" if is_plain else "codes",
        "CE": wording.number(condition.ce, 3),
        "rise [95 %]": wording.DASH if is_plain else interval(condition),
        "KL": wording.DASH if is_plain else wording.number(condition.kl, 3),
        "next token right": wording.percent(condition.accuracy),
        "same top token": wording.DASH if is_plain else wording.percent(condition.agreement),
        "blocks": condition.n_blocks,
    }


def interval(condition: ConditionCosts) -> str:
    low, high = (wording.signed(end, 2) for end in (condition.low, condition.high))
    return f"{wording.signed(condition.increase, 3)} [{low}, {high}]"
