"""What changed between a model and its finetuned form: contexts, sites, codes, and what taking codes back does."""

import plotly.graph_objects as go
import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.charts import chart, table
from interp.app.widgets.tokens import plain, visible
from interp.app.widgets.url_state import IN_URL, tell_missing
from interp.changes import RESULT, Diff

COMMAND = "interp diff smollm2-135m-instruct FINETUNED --text TEXT --out {}/changes"


@st.cache_data(max_entries=8, show_spinner=False)
def opened(folder: str, changed: int) -> Diff:  # noqa: ARG001 - a key of the cache
    return Diff.load(folder)


def contexts(comparison: Diff) -> None:
    """Where the models differ most, as a table, and the classes of tokens."""
    rows = [
        {"KL": context.kl, "context": visible(context.text[-90:]), "base says": visible(context.base)}
        | {"tuned says": visible(context.tuned), "alike": context.alike}
        for context in comparison.contexts
    ]
    word_rows = [
        {"KL": word.kl, "behind": visible(word.word), "tuned says": ", ".join(map(visible, word.says))}
        for word in comparison.words
    ]
    for rows_of_kind in (rows, word_rows):
        table(rows_of_kind, columns={"KL": st.column_config.NumberColumn(format="%.2f")})
    classes = (
        f"{plain(name)} {share:.0%} of the KL, {size:.0%} of the text" for name, size, share in comparison.classes[:5]
    )
    st.caption(f"Tokens: {' · '.join(classes)}")


def sites(comparison: Diff) -> None:
    names = [part.site for part in comparison.sites]
    bars = [
        go.Bar(name="put into the base", x=names, y=[part.kl_share for part in comparison.sites]),
        go.Bar(name="base's put back", x=names, y=[part.undone for part in comparison.sites]),
    ]
    figure = go.Figure(bars).update_layout(
        height=280, margin={"t": 10, "b": 10}, yaxis={"tickformat": ".0%", "title": "share of the KL"}
    )
    chart(figure, "parts", "Shares of the KL that come with single heads and MLPs")
    if comparison.together:
        whole = comparison.together[-1]
        st.caption(
            f"The first {whole.sites} at once: {whole.kl_share:.0%}; at the last token alone {whole.last:.0%}, "
            f"at earlier ones alone {whole.before:.0%}."
        )


def codes(comparison: Diff) -> None:
    for code in comparison.codes:
        counted = f"{code.at_word} of {code.of_word}, {code.expected:.1f} expected"
        with st.expander(plain(f"“{visible(code.word)}” · {code.site}={code.code} · {counted}")):
            for line in (code.name, code.writes):
                if line:
                    st.markdown(plain(line))
            other = "" if code.instead is None else f"; in the base mostly {code.site}={code.instead}"
            more = f"; {code.alike} more codes changed at this word" if code.alike else ""
            whole = f"{code.base} tokens in the base, {code.tuned} in the tuned model"
            st.caption(plain(f"q {code.q:.1e}; {whole}{other}{more}"))
            for example in code.examples:
                st.markdown(f"{plain(example.before)}**{plain(visible(example.token))}**{plain(example.after)}")


def undo(comparison: Diff) -> None:
    rows = [
        {"in the tuned model": name, "KL that goes there": arm.worst, "elsewhere": arm.other}
        for name, arm in comparison.undo.items()
    ]
    percent = st.column_config.NumberColumn(format="percent")
    table(rows, columns={"KL that goes there": percent, "elsewhere": percent})
    for command in (*comparison.commands.get("undo", ()), *comparison.commands.get("redo", ())):
        st.code(command, language="bash", wrap_lines=True)


st.title("Changes")
st.caption("What a finetuned model does that its base did not, told by contexts, by heads and MLPs, and by codes.")
names = run_store.folders("changes")
tell_missing("changes", names, "comparison")
if not names:
    st.info("Nothing is compared yet. This compares two models, in minutes:")
    st.code(COMMAND.format(run_store.shown_path()), language="bash")
else:
    name = st.selectbox("Comparison", names, key="changes", bind=IN_URL)
    with engine.saying(stop=True):
        path = engine.runs() / name / RESULT
        run_store.check_inside(path)
        comparison = opened(str(path.parent), run_store.changed(path))
    st.markdown(
        f"**{plain(str(comparison.tuned))}** against **{plain(str(comparison.base))}**, on {plain(comparison.text)}"
    )
    left, middle, right = st.columns(3)
    left.metric("KL a token, nats", f"{comparison.kl:.4f}")
    middle.metric("tokens", f"{comparison.n_tokens:,}")
    right.metric("codes that changed", f"{comparison.n_changed:,} of {comparison.n_codes:,}")
    if comparison.same:
        st.success("No difference: both models say the same.")
    for note in comparison.notes:
        st.caption(plain(note))
    for title, part, entries in (
        ("Where the next token differs most", contexts, comparison.contexts),
        ("Heads and MLPs that carry it there", sites, comparison.sites),
        ("Codes that changed at a word", codes, comparison.codes),
        ("Taken back", undo, comparison.undo),
    ):
        if entries:
            st.subheader(title)
            part(comparison)
    for prompt in comparison.prompts:
        st.subheader(plain(prompt["prompt"]))
        for column, side in zip(st.columns(2), ("base", "tuned"), strict=True):
            column.caption(side)
            column.markdown(plain(prompt[side]))
