"""What the heads of a circuit say: the groups of its program, the codes of a slot, and a code set on a prompt."""

import streamlit as st

from interp.app import engine
from interp.app.circuit.reading import Kept, pairs, token_texts
from interp.app.circuit.runs import Opened, ink, model_of
from interp.app.widgets.charts import chart, clicked, table
from interp.app.widgets.tokens import plain, visible
from interp.app.widgets.url_state import from_address
from interp.errors import InputError
from interp.models.limits import check_tokens
from interp.programs.own_prompt import CodeAt, same_place, set_codes
from interp.programs.schema import SlotCodes
from interp.prompts.encoding import PromptEncoder
from interp.report.groups import GRAPH_EXPLAINED, TABLE_EXPLAINED, group_graph, group_rows
from interp.report.program import EXPLAINED, code_rows, code_value, command, program_plot, slot_id

MOST = 128  # tokens of a prompt of one's own
TOP = 5
_ANSWERS = Kept(64)


def program(shown: Opened) -> None:
    """Its groups, and the slot that is opened; of a run without a program what makes one."""
    st.subheader("What the heads say")
    run_program = shown.run.program
    if run_program is None:
        line = command(shown.run, shown.prompts, shown.reference)
        st.caption(f"This run has no program of what its heads say. To make one: {plain(line)}")
        return
    if rows := group_rows(run_program):
        table(rows, "groups")
        st.caption(TABLE_EXPLAINED)
        st.markdown(plain(" ".join(run_program.accounts_for())))
        st.html(group_graph(shown.run))
        st.caption(GRAPH_EXPLAINED)
    if run_program.slots:
        with st.expander("Slot by slot", expanded="slot" in st.query_params):
            _slots(shown)
    for note in run_program.notes:
        st.caption(plain(note))


@st.fragment
def _slots(shown: Opened) -> None:
    """Everything that a click on a slot changes: no other part of the page is drawn anew."""
    names = {str(slot_codes.slot): slot_codes for slot_codes in shown.run.program.slots}
    from_address("slot", list(names))
    above = st.container()
    name = st.selectbox("Slot", names, index=None, key="slot", placeholder="Click a dot, or choose a slot")
    key = f"program of {shown.name}, {name}"  # of each choice another: the browser holds no point for chosen

    def take() -> None:
        slots = {slot_id(i): slot for i, slot in enumerate(names)}
        st.session_state["slot"] = slots.get(clicked(key), name)

    about = "What heads say at which token and to which others; the same as the box Slot below"
    with above:
        chart(program_plot(shown.run, ink(), name), key, about, on_select=take, selection_mode="points")
        st.caption(EXPLAINED)
    if name is None:
        st.query_params.pop("slot", None)
        return
    st.query_params["slot"] = name
    st.caption("Clean, corrupt: share of held-out prompts with the code. In the examples the token is in brackets.")
    table(code_rows(names[name]), "said codes")
    with engine.saying():
        _set(shown, names[name])


def _set(shown: Opened, slot_codes: SlotCodes) -> None:
    run, name, spec = shown.run, str(slot_codes.slot), model_of(shown.run)
    pair, model = pairs(shown)[0], engine.model(spec)
    text = st.text_input("Prompt", pair.clean, key=f"prompt of {shown.name}", help=f"At most {MOST} tokens.")
    encoder = PromptEncoder(model.tokenizer, run.provenance.pairs.bos)
    tokens = encoder.bos + encoder.encode(text)
    if not len(encoder.bos) < len(tokens) <= MOST:
        raise InputError(f"the prompt has {len(tokens)} tokens: {len(encoder.bos) + 1} to {MOST} are allowed")
    check_tokens(model, tokens, "the prompt")
    left, middle, right = st.columns([4, 5, 2], vertical_alignment="bottom")
    position = left.selectbox(
        "At the token",
        range(len(tokens)),
        index=same_place(tokens, pair.clean_tokens, pair.positions[slot_codes.role]),
        format_func=lambda i: f"{i} {visible(model.tokenizer.decode([tokens[i]]))}",
        key=f"token of {name} in {text}",
    )
    codes = [row["code"] for row in code_rows(slot_codes)]
    labels = {code: f"{code}: {code_value(slot_codes, code)}" for code in codes}
    code = middle.selectbox("Code", codes, format_func=labels.get, key=f"code of {name}")
    pressed = right.button("Set", type="primary", key="set at slot", width="stretch")
    key = (*shown.key, name, tokens, position, code)
    if not pressed and key not in _ANSWERS:
        return
    code_at = CodeAt(slot_codes.slot, position, run.program.books[name], code)
    (code_there,), *answers = _ANSWERS.get(
        key, lambda: engine.running(spec), lambda model: set_codes(model, tokens, [code_at])
    )
    st.markdown(
        f"Its own code here is **{plain(labels[code_there])}**, set to **{plain(labels[code])}**. The next token:"
    )
    columns: dict[str, list] = {}
    for when, logits in zip(("before", "after"), answers, strict=True):
        best = logits.softmax(-1).topk(min(TOP, len(logits)))
        columns[when] = token_texts(shown, best.indices.tolist())
        columns[f"p {when}"] = best.values.tolist()
    bar = st.column_config.ProgressColumn("probability", format="percent", min_value=0, max_value=1)
    table(columns, "next tokens", {"p before": bar, "p after": bar})
