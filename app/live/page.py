"""Type a text, see its codes: coloured at one site, listed at all sites for the token that is clicked."""

from functools import partial

import streamlit as st
from streamlit.column_config import NumberColumn

from interp.app import engine
from interp.app.live import token_codes
from interp.app.widgets.charts import table
from interp.app.widgets.code_names import beside, labels
from interp.app.widgets.codebook_picker import choose, name_of
from interp.app.widgets.token_strip import by_codes, legend, token_strip
from interp.app.widgets.tokens import plain, visible
from interp.app.widgets.url_state import IN_URL, choice, whole_number
from interp.bottlenecks.store import Codebooks
from interp.codesearch.layout import can_be_edited
from interp.report import wording
from interp.report.plots import site_grid

TEXT = "When Mary and John went to the store, John gave a drink to"
FEW_CODES, ALL_CODES = "coarse codes", "all codes"
COLUMNS = {
    "stands for": st.column_config.TextColumn(
        width="medium", help="The pattern that tells best where the code is on, measured on held-out text."
    ),
    "similarity": NumberColumn(
        format="%.3f", help="Cosine of the code with the vector, or with what earlier codes left of it."
    ),
    "margin": NumberColumn(
        format="%.3f",
        help="Similarity minus the highest one of a code that was passed over; below 0 where the codebook's own metric "
        "chose against the cosine.",
    ),
    "page": st.column_config.LinkColumn("its page", display_text="what it is", help="Opens the page Codes."),
    "steer": st.column_config.LinkColumn("steering", display_text="steer by it", help="Opens the page Steering."),
}


@st.fragment
def tokens(reading: token_codes.TextReading, text: str, name: str, books: Codebooks) -> None:
    """Everything that a click on a token changes: no other part of the page is drawn anew."""
    n, shown = len(reading.pieces), [visible(piece) for piece in reading.pieces]
    sites, names = token_codes.heads_of(reading.codes), labels(books)
    stands_for = partial(wording.code_label, names)
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    site = left.selectbox(
        "Coloured by",
        list(sites),
        token_codes.clearest_site(sites, reading, names),
        key="site",
        bind=IN_URL,
        help="A head, an MLP, the residual stream, or all heads of a layer.",
    )
    # the choice belongs to the text
    chosen = f"token of {text}"
    in_address = whole_number("token", n - 1)
    st.session_state.setdefault(chosen, in_address if in_address < n else n - 1)

    def take(token: int) -> None:
        st.session_state[chosen] = token

    codes = {place: reading.codes[place].ids[:, 0].tolist() for place in sites[site]}
    if names is not None and names.coarse is not None and names.groups.keys() >= codes.keys():
        merged = "Codes merged into at most 16 of a head or MLP that can be told apart, or each by itself."
        if choice("Level", [FEW_CODES, ALL_CODES], "level", place=right, help=merged) == FEW_CODES:
            stands_for = partial(wording.code_label, names.coarse)
            codes = {place: token_codes.coarse_ids(names.groups[place], ids) for place, ids in codes.items()}
    token_strip(reading.pieces, by_codes(codes, stands_for), st.session_state[chosen], "strip", take)
    if colours := legend(codes, stands_for):
        st.html(colours)
    st.caption(
        "Colour and number: the strongest code of each token; the same code has the same colour. Point at a token for "
        "what its code stands for, click it for its codes everywhere, or walk with the arrow keys and press Enter."
    )
    left, right = st.columns(2)
    token = left.selectbox("Token", range(n), format_func=lambda i: f"{i} {shown[i]}", key=chosen)
    other = right.selectbox(
        "Compared with",
        [None, *range(n)],
        format_func=lambda i: "no other" if i is None else f"{i} {shown[i]}",
        key=f"other of {text}",
        help="Shows at which sites the two tokens have the same code.",
    )
    st.query_params["token"] = str(token)
    st.subheader(f"Codes of {plain(shown[token])}")
    if other is not None:
        shares = token_codes.shared(reading, token, other)
        st.markdown(
            f"The same code as {plain(shown[other])} ({other}) at "
            f"**{sum(value > 0 for value in shares.values())} of {len(shares)}** sites:"
        )
        st.plotly_chart(
            site_grid({site: value for site, value in shares.items() if can_be_edited(site)}, "shared"),
            key="shared",
            alt=f"Sites at which tokens {token} and {other} have the same code: heads and MLP by layer",
        )
    rows = token_codes.codes_at(reading, token, name, beside(names))
    table(rows, "codes of a token", COLUMNS, height=380)


st.title("Live text")
st.caption("Every token is read once; its codes at any site are then a click away.")
folder, books = choose()
text = st.text_area(
    "Text",
    TEXT,
    key="text",
    bind=IN_URL,
    height=80,
    on_change=lambda: st.query_params.pop("token", None),  # another text begins at its last token
    help=f"At most {token_codes.MOST} tokens. Ctrl+Enter reads it.",
)
with engine.saying(stop=True):
    reading = token_codes.read(folder, books, text)
tokens(reading, text, name_of(folder), books)
