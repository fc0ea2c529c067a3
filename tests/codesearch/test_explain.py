"""A model of the user's that reads what is shown to it explains codes well; one that does not is found out."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from interp.codesearch import CodeIndex, Endpoint, explain_codes, explanations_of
from interp.codesearch.explain import FILE, LONGEST
from interp.errors import InputError
from tests.codesearch.conftest import synthetic_index, word_corpus

WORDS = [*(f" w{i}" for i in range(20)), " of", " the\n"]
CODES = [("a0.h0", 0), ("a1.h0", 0)]


@pytest.fixture
def index(tmp_path) -> CodeIndex:
    """Code 0 of the first book is on at “ of”, of the second at “ the”; of the third it is on once, and code 1 else."""
    tokens = 1 + np.random.default_rng(0).integers(len(WORDS), size=4_000)
    ids = [np.where(tokens == number, 0, 1)[:, None] for number in (21, 22)]
    once = np.ones((len(tokens), 1), int)
    once[7] = 0
    return synthetic_index(tmp_path / "index", word_corpus(WORDS, tokens), [*ids, once], 2)


def reader(question: str) -> str:
    """Says the token that is marked most often; and where that is marked."""
    marked = re.findall("«(.*?)»", question.partition("\n\n")[2])
    if question.startswith("In which"):
        kind = re.search("kind: (.*?)\\?", question)[1]
        return ", ".join(str(i) for i, token in enumerate(marked, 1) if token.strip() in kind)
    return f'"the word {max(set(marked), key=marked.count).strip()}"\nbecause it is so'


def test_what_holds_on_other_text_is_told_from_another_codes_words(index):
    explanations = explain_codes(index, CODES, reader, "reader")
    assert [explanation.text for explanation in explanations.values()] == ["the word of", "the word the\\n"]
    for explanation in explanations.values():
        assert (explanation.precision, explanation.recall, explanation.f1) == (1, 1, 1)
        assert (explanation.null, explanation.n) == (0, 20)
    assert explanations_of(CodeIndex.open(index.folder)) == explanations


def test_one_who_always_says_the_same_is_no_better_than_another_codes_words(index):
    def says_all(question: str) -> str:
        return " ".join(map(str, range(1, 21))) if question.startswith("In which") else "x " * 100

    for explanation in explain_codes(index, CODES, says_all, "blind").values():
        assert explanation.recall == 1 and explanation.precision == 0.5
        assert explanation.f1 == explanation.null == pytest.approx(2 / 3)
        assert len(explanation.text) == LONGEST


def test_an_answer_is_not_asked_for_again(index):
    asked = []

    def fails(question: str) -> str:
        asked.append(question)
        if len(asked) == 4:
            raise InputError("the server is gone")
        return reader(question)

    with pytest.raises(InputError, match="gone"):
        explain_codes(index, CODES, fails, "reader")
    explanations = explain_codes(index, CODES, fails, "reader")
    assert len(asked) == 4 + 4 and len(set(asked)) == 6
    assert [explanation.f1 for explanation in explanations.values()] == [1, 1]
    assert explain_codes(index, CODES, fails, "reader") == explanations and len(asked) == 8
    explain_codes(index, CODES[:1], reader, "another")
    assert {explanation.model for explanation in explanations_of(index).values()} == {"another", "reader"}
    # what another split explained is not judged by it
    again = explain_codes(index, CODES[1:], fails, "reader", seed=1)
    assert len(asked) == 10 and again["a1.h0=0"].seed == 1


def test_two_who_ask_at_once_keep_both_answers(index):
    other = []

    def meanwhile(question: str) -> str:
        if not other:
            other.append(explain_codes(index, CODES[1:], reader, "another"))
        return reader(question)

    explain_codes(index, CODES[:1], meanwhile, "reader")
    assert sorted(explanation.model for explanation in explanations_of(index).values()) == ["another", "reader"]


def test_codes_that_are_hardly_on_and_damaged_files_are_refused(index):
    for code in (0, 1):
        with pytest.raises(InputError, match=f"a2.h0={code}"):
            explain_codes(index, [("a2.h0", code)], reader, "reader")
    (index.folder / FILE).write_text('{"books": []}')
    assert explanations_of(index) == {}
    for wrong in ({"said": 1}, {"text": "x", "model": "m", "seed": 0, "f1": "high"}, []):
        kept = {"books": index.manifest["books"]["fingerprint"], "explanations": {"a0.h0=0": wrong}}
        (index.folder / FILE).write_text(json.dumps(kept))
        with pytest.raises(InputError, match="damaged"):
            explanations_of(index)


@pytest.fixture
def server():
    """Speaks chat completions on this machine; ``answers`` maps a path's end to what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.headers.get("Authorization"), asked["model"]))
            answer = {"choices": [{"message": {"content": reader(asked["messages"][0]["content"])}}]}
            wrong = self.path.startswith("/wrong")
            self.send_response(401 if self.path.startswith("/closed") else 200)
            self.end_headers()
            self.wfile.write(json.dumps([] if wrong else answer).encode())

        def log_message(self, *_words) -> None:
            pass

    seen: list = []
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", seen
        http.shutdown()


@pytest.mark.usefixtures("elsewhere")
def test_the_command_asks_the_server_that_is_named(index, server, command, monkeypatch):
    url, seen = server
    monkeypatch.setenv("INTERP_API_KEY", "secret")
    words = f"index explain {index.folder} --asked small --codes a0.h0=0,a1.h0=0 --endpoint".split()
    done = command(*words, f"{url}/v1")
    assert done.code == 0 and "the word of" in done.out and set(seen) == {("Bearer secret", "small")}
    assert len(seen) == 6 and "secret" not in (index.folder / FILE).read_text()
    page = command("index", "search", str(index.folder), "--code", "a0.h0=0")
    assert page.code == 0 and "small says “the word of”" in page.out and "F1 1.00" in page.out
    (index.folder / FILE).unlink()
    for wrong, part in (
        (f"{url}/closed", "401"),
        (f"{url}/wrong", "no chat completion"),
        ("http://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:port", "port"),
        ("file:///etc/passwd", "http://"),
    ):
        failed = command(*words, wrong)
        assert failed.code == 2 and part in failed.error
    assert not (index.folder / FILE).exists()
    assert command("index", "explain", str(index.folder), "--asked", "small", "--endpoint", url).code == 2
    with pytest.raises(InputError, match="http"):
        Endpoint("localhost:8000", "small")
