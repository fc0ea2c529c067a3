"""Who runs the model next: first come, first served.

Hooks are global to a model, so nothing may run it while another tab has codes set. A tab that waits is told how many
are before it, and is in nobody's way if it is closed meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """A fair lock that knows its queue."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[object] = []
        """The first one has the turn."""

    @contextmanager
    def turn(self, waiting: Callable[[int], None], every: float = 0.25) -> Iterator[None]:
        """Wait for the turn, and give it back however the body ends.

        Args:
            waiting: told again and again how many are before this one; what it raises ends the wait.
            every: seconds between two calls of it, the first of which comes as late.
        """
        mine = object()
        with self._changed:
            self._line.append(mine)
        try:
            while before := self._before(mine, every):
                waiting(before)
            yield
        finally:
            with self._changed:
                self._line.remove(mine)
                self._changed.notify_all()

    def _before(self, mine: object, patience: float) -> int:
        """How many have to be waited for, after waiting a while for none."""
        with self._changed:
            self._changed.wait_for(lambda: self._line[0] is mine, patience)
            return self._line.index(mine)
