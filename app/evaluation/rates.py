"""The part *Bits* of the page *Evaluation*: what every kind of bottleneck keeps at every rate."""

import shlex

import streamlit as st

from interp.app.evaluation import sources
from interp.app.widgets import run_store
from interp.app.widgets.url_state import IN_URL
from interp.report.plots import rate_faithfulness_plot
from interp.report.tables import RateRow, read_rates

PARTS = {"heads": "heads", "mlps": "MLP outputs"}


def show() -> None:
    files = sources.rates()
    if not files:
        st.info("No rates have been measured yet. Measure some in a terminal, then reload this page:")
        words = [
            "interp",
            "bottlenecks",
            "bench",
            "--kinds",
            "vq,residual-vq,binary",
            "--bits",
            "9,18",
            "--out",
        ]
        st.code(shlex.join([*words, f"{run_store.shown_path()}/bits"]), language="bash")
        return
    left, right = st.columns(2)
    name = left.selectbox("Measured", list(files), key="rates", bind=IN_URL)
    rows = sources.read(read_rates, files[name])
    parts = [part for part in PARTS if any(row.part == part for row in rows)]
    part = right.segmented_control(
        "Sites", parts, default=parts[0], format_func=PARTS.get, required=True, key="part", bind=IN_URL
    )
    st.plotly_chart(
        rate_faithfulness_plot(rows, part),
        alt="KL of the model with codes in place against bits of a vector, a line a kind",
    )
    st.caption(
        "Codes stand in place of all these sites at once; below is better. Kinds in colour keep most for their bits at "
        "some rate; the others are beaten at every one. Bars are 95 % intervals over blocks of held-out text."
    )
    st.dataframe([_told(row) for row in rows if row.part == part], hide_index=True)


def _told(row: RateRow) -> dict[str, str | float]:
    told = {
        "kind": row.kind.replace("_", "-"),
        "bits": round(row.bits, 1),
        "KL": round(row.kl, 4),
        "variance explained": round(row.explained, 3),
    }
    return told | {f"effect kept, {task}": round(share, 3) for task, share in row.effect.items()}
