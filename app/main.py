"""The workbench, for ``streamlit run``: whom it answers. What it shows begins in :mod:`interp.app.pages`.

A page elsewhere whose name is made to lead to this machine would get what the workbench shows. So a request under
another name than those of ``server.allowedHosts`` gets nothing, neither the WebSocket nor a file.
"""

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

hosts = st.get_option("server.allowedHosts") or ["*"]
only_known_hosts = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
app = st.App(Path(__file__).with_name("pages.py"), middleware=[only_known_hosts])
