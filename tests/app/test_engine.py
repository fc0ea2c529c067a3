"""Turns at the model: fair, counted, given back however the work ends; two tabs get what each asked for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from streamlit.runtime.scriptrunner_utils.exceptions import RerunException, StopException
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

from interp.app import engine
from interp.app.engine import Turns
from interp.app.steering.job import compare
from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from interp.steering import SetCode, SteeringRequest, WeightedCode
from interp.steering.continuations import continue_prompts

SOON = 10


class Closed(BaseException):
    """As Streamlit's own, which ends a script whose tab was closed."""


@pytest.fixture
def turns() -> Turns:
    return Turns()


def _tab(turns: Turns, name: str, done: list[str], waits: dict[str, list[int]], queued: threading.Event):
    def waiting(before: int) -> None:
        waits.setdefault(name, []).append(before)
        queued.set()

    def work() -> None:
        with turns.turn(waiting, every=0.01):
            done.append(name)

    thread = threading.Thread(target=work)
    thread.start()
    assert queued.wait(SOON)
    return thread


def test_first_come_first_served_and_each_is_told_how_many_are_before_it(turns):
    done, waits = [], {}
    with turns.turn(lambda _before: pytest.fail("nobody is before the first")):
        threads = [_tab(turns, name, done, waits, threading.Event()) for name in "abc"]
        assert [waits[name][0] for name in "abc"] == [1, 2, 3] and not done
    for thread in threads:
        thread.join(SOON)
    assert done == ["a", "b", "c"]
    assert all(written == sorted(written, reverse=True) for written in waits.values())


def test_a_tab_that_is_closed_while_it_waits_leaves_the_queue(turns):
    done, waits = [], {}

    def closed(_before: int) -> None:
        raise Closed

    with turns.turn(waits.get):
        with pytest.raises(Closed), turns.turn(closed, every=0.01):
            done.append("never")
        last = _tab(turns, "last", done, waits, threading.Event())
        assert set(waits["last"]) == {1}
    last.join(SOON)
    assert done == ["last"]


@pytest.fixture
def books(tiny_model_folder, runs_with_books, monkeypatch) -> dict:
    """The codebooks, and the environment in which the engine loads their model."""
    monkeypatch.setenv("INTERP_MODEL", str(tiny_model_folder("llama")))
    monkeypatch.setenv("INTERP_RUNS", str(runs_with_books))
    return Codebooks.from_pretrained(runs_with_books / "books", engine.model())


def _request(prompt: str, site: str, code: int, seed: int, n_tokens: int = 24) -> SteeringRequest:
    return SteeringRequest((prompt,), (WeightedCode(site, code),), slots=2, n_tokens=n_tokens, seed=seed)


@pytest.fixture
def expected(model, runs_with_books):
    """The tokens of base and steered, by a model of its own."""
    books = Codebooks.from_pretrained(runs_with_books / "books", model)

    def of(request: SteeringRequest) -> list[tuple[int, ...]]:
        [(site, code, _)] = request.codes
        within = attach(model, books, read=False).edit(SetCode(site, code, 2, rows=[1]), seed=request.seed)
        prompts = list(request.prompts) * 2
        written = continue_prompts(model, prompts, request.n_tokens, within=within, seed=request.seed)
        return [text.tokens for text in written]

    return of


def test_tabs_that_steer_at_once_get_what_each_asked_for(books, expected):
    requests = [
        _request("Mary had a", "a1.h2", 5, seed=1),
        _request("John went to the store", "a0.h1", 3, seed=2),
        _request("Once", "m0", 7, seed=3),
    ]
    together = threading.Barrier(len(requests))

    def steered(request: SteeringRequest) -> list[tuple[int, ...]]:
        together.wait(SOON)
        written = compare(books, request, lambda *_: None)
        return [text.text.tokens for text in written]

    with ThreadPoolExecutor(len(requests)) as tabs:
        written = list(tabs.map(steered, requests))
    assert written == [expected(request) for request in requests]
    assert all(base != steered for base, steered in written)


@pytest.mark.parametrize("error", [StopException(), RerunException(RerunData()), RuntimeError("crash")])
def test_a_text_that_is_broken_off_leaves_the_model_as_it_was(books, expected, error):
    """Streamlit ends the script in the middle of the generation when its tab is closed or clicked again."""
    seen = []

    def show(row: int, *_: object) -> None:
        seen.append(row)
        if len(seen) == 5:
            raise error

    request = _request("Mary had a", "a1.h2", 5, seed=1)
    with pytest.raises(type(error)):
        compare(books, request, show)
    assert len(seen) == 5
    # neither the turn nor a hook nor a code is left: another thread gets it all, and gets it right
    with ThreadPoolExecutor(1) as tab:
        written = tab.submit(compare, books, request, lambda *_: None).result(SOON)
    assert [text.text.tokens for text in written] == expected(request)
    assert not any(point.fwd_hooks for point in engine.model().hook_dict.values())
