"""The picture of an explanation, whose nodes can be clicked, or walked with the arrow keys and chosen with Enter."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

_JS, _CSS = (Path(__file__).with_suffix(end).read_text(encoding="utf-8") for end in (".js", ".css"))
_picture = st.components.v2.component("interp_node_picture", html='<div class="picture"></div>', css=_CSS, js=_JS)


def node_picture(svg: str, chosen: int, n_nodes: int, key: str, on_pick: Callable[[int], None]) -> None:
    """Draw an SVG whose nodes have ``data-node``. ``chosen``: the node with a ring. ``on_pick``: is told which node was
    picked, before the page is drawn anew."""

    def take() -> None:
        node = st.session_state[key].get("picked")
        if isinstance(node, int) and 0 <= node < n_nodes:
            on_pick(node)

    _picture(key=key, data={"svg": svg, "chosen": chosen}, on_picked_change=take)
