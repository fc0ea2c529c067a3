"""Type a text, see its codes: coloured at one site, listed at all sites for one token."""

import streamlit as st

from interp.app import engine
from interp.app.books import choose
from interp.app.reading import MOST, heads_of, read
from interp.app.tokens import coloured, plain, visible
from interp.tasks.errors import InputError

TEXT = "When Mary and John went to the store, John gave a drink to"
IN_URL = "query-params"

st.title("Live text")
st.caption("Every token is read once; its codes at any site are then a click away.")
_, books = choose()
text = st.text_area(
    "Text", TEXT, key="text", bind=IN_URL, height=80, help=f"At most {MOST} tokens. Ctrl+Enter reads it."
)
try:
    reading = read(books, text)
except InputError as error:
    engine.say(error)
    st.stop()

sites = heads_of(reading.codes)
site = st.selectbox(
    "Coloured by",
    list(sites),
    key="site",
    bind=IN_URL,
    help="A head, an MLP, the residual stream, or all heads of a layer.",
)
place = st.container()

n = len(reading.pieces)
wanted = st.query_params.get("token", "")
wanted = int(wanted) if wanted.isdecimal() and int(wanted) < n else n - 1
key = f"token of {text}"
st.session_state.setdefault(key, wanted)
token = st.pills(
    "Token",
    range(n),
    format_func=lambda i: f"{i} {plain(visible(reading.pieces[i]))}",
    key=key,
    help="Its codes at all sites are listed below.",
)
with place:
    for name in sites[site]:
        st.html(coloured(name, reading.pieces, reading.codes[name].ids[:, 0].tolist(), token))
    st.caption("Colour and number: the strongest code of each token. The same code has the same colour.")
if token is None:
    st.caption("Choose a token to see its codes at all sites.")
    st.stop()
st.query_params["token"] = str(token)

rows = [
    {
        "site": name,
        "slot": slot + 1,
        "code": int(codes.ids[token, slot]),
        "similarity": float(codes.similarity[token, slot]),
        "margin": float(codes.margin[token, slot]),
    }
    for name, codes in reading.codes.items()
    for slot in range(codes.ids.shape[1])
    if codes.ids[token, slot] >= 0
]
columns = {
    "similarity": st.column_config.NumberColumn(
        format="%.3f", help="Cosine of the code with the vector, or with what earlier codes left of it."
    ),
    "margin": st.column_config.NumberColumn(
        format="%.3f", help="Similarity minus the highest one of a code that was passed over."
    ),
}
st.subheader(f"Codes of {plain(visible(reading.pieces[token]))}")
st.dataframe(rows, hide_index=True, column_config=columns)
