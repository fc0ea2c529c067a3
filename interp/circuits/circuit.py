"""A circuit: the components that causally carry a behaviour, with signed effects, and the edges among them."""

from dataclasses import dataclass, field

from interp.scores.result import EdgeScore


@dataclass(frozen=True)
class Component:
    """A head (``a5.h3``) or MLP (``m2``) as a method scored it and as activation patching measured it.

    Attributes:
        score: ``None`` where the method's tells no sign and nothing was measured.
        effect: mean fall of the metric when the component's output is patched with its value on the corrupt prompt
            (positive = it helps); ``None`` where it was not checked.
        effect_low, effect_high: 95 % bootstrap interval over pairs.
        roles: role name -> score in [0, 1], see :mod:`interp.circuits.roles`.
        codes: the codes it uses on clean and on corrupt prompts, most used first: ``{"clean": [[code, share], …], …}``.
    """

    site: str
    score: float | None
    effect: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None
    in_circuit: bool = False
    roles: dict[str, float] = field(default_factory=dict)
    codes: dict[str, list] = field(default_factory=dict)


@dataclass(frozen=True)
class Circuit:
    """The outcome of a discovery."""

    model: str
    task: str
    method: str
    universe: str
    """``heads`` (MLPs stay live) or ``heads+mlps``."""
    n_layers: int
    n_heads: int
    metric: dict[str, float]
    """Mean metric on ``clean`` and on ``corrupt`` prompts."""
    components: tuple[Component, ...]
    edges: tuple[EdgeScore, ...]
    provenance: dict

    @property
    def gap(self) -> float:
        return self.metric["clean"] - self.metric["corrupt"]

    @property
    def members(self) -> tuple[Component, ...]:
        """Components in the circuit, largest absolute effect first."""
        inside = [c for c in self.components if c.in_circuit]
        return tuple(sorted(inside, key=lambda c: -abs(c.effect or 0.0)))
