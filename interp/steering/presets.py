"""Settings that were tried and steer: a prompt, codes, a dose, and how often it worked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interp.files import read_json
from interp.tasks.errors import InputError

FILE = Path(__file__).parent / "data" / "presets.json"
FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """Of so many texts, how many hold one of the words: without codes, with them, and with random codes.

    Attributes:
        perplexities: in the same order, under the model without steering.
    """

    n: int
    words: tuple[str, ...]
    hits: tuple[int, int, int]
    perplexities: tuple[float, float, float]


@dataclass(frozen=True)
class Preset:
    """
    Attributes:
        codes: as :func:`~interp.steering.parse_codes` reads them.
        how, scale: ``added`` so many times, or ``set``.
        found: from which texts.
    """

    name: str
    prompt: str
    codes: str
    how: str
    scale: float
    temperature: float
    n_tokens: int
    found: str
    measured: Measured


def load_presets(made_with: str) -> list[Preset]:
    """Those of a model with its codebooks; none for others.

    Args:
        made_with: see :func:`~interp.steering.kept.identity`.

    Raises:
        InputError: the file is damaged.
    """
    try:
        stored = read_json(FILE)
        if stored["format"] != FORMAT:
            raise InputError(f"{FILE} is not of format {FORMAT}")
        return [_preset(one) for one in stored["presets"]] if stored["made_with"] == made_with else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {FILE}: {error}; install the package again") from None


def _preset(stored: Mapping) -> Preset:
    measured = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored["measured"].items()
    }
    return Preset(**{**stored, "measured": Measured(**measured)})
