"""What codes are called on the pages: their labels, if there are some."""

from collections.abc import Callable

from interp.app import engine
from interp.bottlenecks.store import Codebooks
from interp.codesearch import CodeIndex, Labels, labels_of
from interp.report import wording


def labels(source: CodeIndex | Codebooks) -> Labels | None:
    """Those of an index or of codebooks; if they cannot be read the page says so and goes on without."""
    with engine.saying():
        return labels_of(source)
    return None


def called(found: Labels | None) -> Callable[[str, int], str]:
    """The label of a code by site and id, as it is shown; empty where it has none."""
    return lambda site, code: wording.code_label(found, site, code)


def beside(found: Labels | None) -> Callable[[str, int], dict[str, str]]:
    """The same as a table's column, which is not there where no code has a label."""
    return lambda site, code: {} if found is None else {"stands for": wording.code_label(found, site, code)}
