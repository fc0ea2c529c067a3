"""What ``interp grow`` prints."""

from interp.cli.terminal import plain_console, table
from interp.evaluation.nested_circuits import NestedCurve
from interp.scores.adaptive_patching.nested import NestedCircuits

GROWN_SHOWN = 8


def print_grown(curve: NestedCurve, growth: NestedCircuits, task: str, n_pairs: int) -> None:
    """Grown circuits by size: what they have on held-out prompts beside what growth expects and random heads have."""
    console = plain_console()
    names = ("heads", "of the gap", "95 % interval", "expected", "random heads", "joined")
    circuits = table(*names, left=("joined",))
    for circuit in curve.circuits:
        interval = circuit.interval
        circuits.add_row(
            str(circuit.size),
            f"{circuit.share:.2f}",
            f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "",
            f"{circuit.expected:.2f}",
            f"{circuit.random:.2f}",
            " ".join(circuit.joined[:GROWN_SHOWN]) + (" …" if len(circuit.joined) > GROWN_SHOWN else ""),
        )
    console.print(
        f"{task}: grown on {n_pairs} pairs ({growth.cost.forwards / n_pairs:.0f} forward passes a pair), "
        f"all other heads off, on {curve.n_pairs} held-out pairs"
    )
    console.print(circuits)
    console.print(f"CMD {curve.cmd:.3f} (area between the circuits and the model, all sizes; 0 is best)")
