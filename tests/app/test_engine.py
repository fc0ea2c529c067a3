"""Turns at the model: fair, counted, given back however the work ends."""

import threading

import pytest

from interp.app.turns import Turns

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
    assert all(found == sorted(found, reverse=True) for found in waits.values())


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


@pytest.mark.parametrize("error", [Closed, RuntimeError, KeyboardInterrupt])
def test_a_turn_ends_with_its_body_however_that_ends(turns, error):
    with pytest.raises(error), turns.turn(lambda _before: None):
        raise error
    with turns.turn(lambda _before: pytest.fail("the turn was not given back")):
        pass
