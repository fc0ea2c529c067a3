"""Whom a running workbench answers: a page under another name that leads here gets neither WebSocket nor file."""

import http.client
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.browser.workbench import serve

PATHS = ("/", "/_stcore/health", "/_stcore/host-config", "/static/index.html", "/media/nothing.png", "/live")
SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def ask(tmp_path_factory) -> Callable[..., tuple[int, bytes]]:
    """Sends a request with other headers to a running server: status and body."""
    folder = tmp_path_factory.mktemp("hosts")

    with serve(folder, folder / "log", "planted-induction") as address:
        port = urlsplit(address).port

        def send(path: str, host: str, **headers: str) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path, headers={"Host": f"{host}:{port}", **headers})
            answer = connection.getresponse()
            body = answer.read() if answer.status != 101 else b""
            connection.close()
            return answer.status, body

        yield send


def test_neither_file_nor_websocket_goes_to_another_name_or_origin(ask):
    for path in PATHS:
        assert ask(path, "rebound.example") == (400, b"Invalid host header")
        assert ask(path, "127.0.0.1")[1] == ask(path, "localhost")[1]
    assert ask("/", "127.0.0.1")[0] == 200

    def opens(host: str, origin: str) -> bool:
        return ask("/_stcore/stream", host, Origin=origin, **SOCKET)[0] == 101

    assert opens("127.0.0.1", "http://127.0.0.1:8501") or opens("localhost", "http://localhost:8501")
    assert not opens("rebound.example", "http://rebound.example")
    assert not opens("127.0.0.1", "http://rebound.example")
