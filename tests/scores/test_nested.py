"""A circuit that was grown does the task alone, and what it says it lacks is what it lacks."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.activations.stream import MetricConsumer, feed
from interp.errors import InputError
from interp.interventions.ablation import Ablator, all_or_none
from interp.interventions.clean_run import CleanRun
from interp.scores.adaptive_patching.nested import (
    POINTS,
    NestedCircuitsConfig,
    nested_circuits,
    rank_so_that_the_rest_cancels,
)
from tests.oracles import planted, written
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


def _share(model, pairs, circuit: np.ndarray) -> float:
    """What the circuit has of the metric, by running it."""
    run = Ablator(model, pairs).metric(np.stack([*all_or_none(circuit.shape), circuit]))
    nothing, all_of_it, head_alone = run.mean(1)
    return float((head_alone - nothing) / (all_of_it - nothing))


@pytest.mark.parametrize("name", ["planted-induction", "planted-or", "planted-gates"])
def test_a_grown_circuit_has_the_planted_heads_and_does_the_task_on_other_prompts(name):
    """Arms of OR-gates among them, which have no effect by themselves."""
    model, pairs = planted(name, 10)
    truth = written(name)
    config = NestedCircuitsConfig(fractions=(truth.mean() + 1e-9, 0.9))
    circuit = nested_circuits(model, pairs, config).circuit(int(truth.sum()))
    assert (circuit == truth).all()
    assert _share(model, planted(name, 10, seed=1)[1], circuit) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_circuit_lacks_is_the_derivative_by_what_it_leaves_out(family, tiny_model):
    """Heads that are left out are turned on a little more and a little less, the others stay as they are."""
    model, pairs = tiny_model(family), random_pairs(60, n=3)
    scores = nested_circuits(model, pairs, NestedCircuitsConfig(fractions=(0.5,)))
    kept = torch.from_numpy(scores.circuit(scores.sizes[0]))
    runner, metrics = CleanRun(model, pairs, range(3)), MetricConsumer(3)
    feed(model, pairs, [runner, metrics])
    points = torch.tensor(POINTS)

    def metric(more: float) -> float:
        shares = points[:, None, None] + torch.where(kept, 0.0, more)
        hooks = {
            f"blocks.{layer}.attn.hook_z": lambda z, layer=layer: torch.lerp(
                runner.corrupt_z[layer], z, shares[:, None, layer, :, None]
            )
            for layer in range(model.cfg.n_layers)
        }
        with torch.no_grad():
            return float(runner.metric(range(3), 0, runner.resid[0], hooks).double().mean())

    gap = float((metrics.metric_[0] - metrics.metric_[1]).mean())
    slope = (metric(0.01) - metric(-0.01)) / 0.02
    assert scores.left_out[0] * gap == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_circuits_are_nested_end_with_all_heads_and_have_the_signs_of_what_heads_do():
    model, pairs = planted("planted-backup", 6)
    scores = nested_circuits(model, pairs)
    n_heads = scores.heads.size
    assert sorted(np.abs(scores.heads).ravel()) == list(range(1, n_heads + 1))
    circuits = [scores.circuit(size) for size in range(n_heads + 1)]
    assert [circuit.sum() for circuit in circuits] == list(range(n_heads + 1))
    assert all((small <= large).all() for small, large in zip(circuits, circuits[1:], strict=False))
    assert scores.sizes == tuple(NestedCircuitsConfig().sizes(n_heads))
    # two base passes, the prefix once more, and a forward and a backward a round
    assert scores.cost.forwards <= len(pairs) * (3 + 3 * len(scores.sizes))
    assert scores.heads[3, 2] < 0 < scores.heads[1, 4], "the negative mover and the mover"


# in sixty-fourths, whose sums are exact: sums are the same or they are not
@given(
    st.lists(st.tuples(st.integers(-64, 64).map(lambda n: n / 64), st.floats(0, 1)), min_size=2, max_size=8),
    st.integers(1, 7),
)
def test_no_set_of_the_same_sum_is_smaller(heads, kept):
    """Of all sets with the sum of the one left out, none has a smaller sum of squares."""
    mean, noise = (np.array(column) for column in zip(*heads, strict=True))
    kept, square = min(kept, len(heads)), mean**2 + noise
    order, left = rank_so_that_the_rest_cancels(mean, square, kept)
    assert sorted(order) == list(range(len(heads)))
    out = order[kept:]
    assert left == pytest.approx(mean[out].sum(), abs=1e-9)
    sets = [list(chosen) for chosen in combinations(range(len(heads)), len(out))]
    rivals = [chosen for chosen in sets if abs(mean[chosen].sum() - left) < 1e-12]
    assert square[out].sum() <= min(square[chosen].sum() for chosen in rivals) + 1e-6


def test_bad_input_is_named():
    model, pairs = planted("planted-or", 4)
    with pytest.raises(InputError, match="1 pair: at least 2"):
        nested_circuits(model, pairs.subset([0]))
    for fractions in ((), (0.0,), (0.5, 1.0)):
        with pytest.raises(InputError, match="fractions"):
            NestedCircuitsConfig(fractions=fractions)
    with pytest.raises(InputError, match="size 999"):
        nested_circuits(model, pairs).circuit(999)
