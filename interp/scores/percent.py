"""Progress of methods whose work is known only as it goes: told in hundredths."""

from collections.abc import Callable

from interp.activations.stream import Progress

HUNDREDTHS = 100


def percent(progress: Progress | None) -> Callable[[float], None]:
    """A function that is told which share of the work is done, and passes on whole hundredths, 100 in all."""
    told = 0

    def tell(share: float) -> None:
        nonlocal told
        now = int(HUNDREDTHS * min(1.0, share) + 1e-9)
        if progress is not None and now > told:
            progress(now - told)
        told = max(told, now)

    return tell
