"""Codes that were found: what is known of each, and the edits that set or add them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from interp.bottlenecks.edits import OPERATIONS, CodeEdit, SetCode, WeightedCode, code_edits
from interp.errors import InputError

SCALE = 2.5  # how many times codes that were found are added, with their weights, where nothing is said

LEAST_EFFECT = 3.0
"""Nats a token that all codes of a topic have together, from which on steering showed (docs/steering.md)."""


@dataclass(frozen=True)
class Verdict:
    """What texts that did not choose a code say of it."""

    # precision, recall: share of those in which it fires that are positive (None if it fires in none), share of the
    # positive ones in which it fires
    precision: float | None
    recall: float
    # token_precision, token_recall: the same of tokens, each counted as its text
    token_precision: float | None
    token_recall: float
    p_value: float  # hypergeometric, one-sided
    q_value: float  # after Benjamini and Hochberg over all codes that were judged


@dataclass(frozen=True)
class FoundCode:
    site: str
    code: int
    # how many times it is in the difference of means over all texts: by difference of a site's codes together, by
    # detection by itself, 0 or more
    weight: float
    effect: float | None  # see :mod:`interp.steering.find`; None where codes were found by detection
    detection: float  # −log10 p of the half that chooses
    verdict: Verdict | None  # None if the half that chooses would not have found it


@dataclass(frozen=True)
class CodeSet:
    """Best first; at a site one or, by difference, some."""

    codes: tuple[FoundCode, ...]
    by: str
    seed: int
    # n_positive, n_negative: texts, those of both halves together
    n_positive: int
    n_negative: int

    def __len__(self) -> int:
        return len(self.codes)

    def sets(self, n: int | None = None, *, slots: int = 1, strength: float | int | None = None) -> list[SetCode]:
        """Edits that set the first n, or all; of a site's codes only the best, as one takes the other's place."""
        return [SetCode(site, code, slots, strength) for site, code, _ in self.named(n, "set")]

    def adds(self, n: int | None = None, *, scale: float | int = SCALE) -> list[CodeEdit]:
        """Edits that add how each of the first n, or of all, differs from its codebook's mean, so many times its
        weight."""
        return code_edits(self.named(n, "added"), "added", scale=scale)

    def named(self, n: int | None, how: str) -> list[WeightedCode]:
        """The first n, or all: to be ``added``, with their weights, without those of weight 0; ``set``, of each site
        only the best; or ``forbidden``.
        """
        if how not in OPERATIONS:
            raise InputError(f"codes to be {how!r}: choose {', '.join(OPERATIONS)}")
        if n is not None and not 1 <= n <= len(self.codes):
            raise InputError(f"{n} codes: choose 1 to {len(self.codes)}")
        first = self.codes[:n]
        if how == "added":
            return [WeightedCode(code.site, code.code, code.weight) for code in first if code.weight]
        if how == "set":
            sites = [code.site for code in first]
            first = tuple(code for i, code in enumerate(first) if code.site not in sites[:i])
        return [WeightedCode(code.site, code.code) for code in first]

    def listed(self, used: Sequence[WeightedCode]) -> list[FoundCode]:
        """Those that are used, best first."""
        named = {(code.site, code.code) for code in used}
        return [code for code in self.codes if (code.site, code.code) in named]

    def doubt(self) -> str | None:
        """Why adding all of these may hardly steer, in one line; ``None`` where nothing speaks for that."""
        if self.by != "difference":
            return None
        effect = sum(code.effect or 0.0 for code in self.codes)
        if effect >= LEAST_EFFECT:
            return None
        return (
            f"all codes found raise what the texts are about by {effect:.1f} nats a token, and steering hardly showed "
            f"below {LEAST_EFFECT:.0f}: codebooks of more codes, or fitted on more tokens, may tell more of it"
        )

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping) -> "CodeSet":
        """What :meth:`to_json` gave; a :class:`ValueError` for something else."""
        return TypeAdapter(cls).validate_python(stored)
