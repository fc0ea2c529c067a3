"""Codes get the variable that they tell, and no other that merely goes with it."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from interp.programs.codes import Variable, _ami, name_codes, usual_codes

N, FITTED = 300, 200


def varying(name: str, ids: np.ndarray) -> Variable:
    return Variable(name, tuple(f"{name}{i}" for i in range(int(ids.max()) + 1)), ids, True)


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    """A template of two kinds, an order that mostly goes with it, a side, and a name that goes with nothing."""
    rng = np.random.default_rng(0)
    template = np.tile(rng.integers(2, size=N), (2, 1))
    order = np.where(rng.random((2, N)) < 0.8, template, 1 - template)
    return {
        "template": template,
        "order": order,
        "side": np.repeat([[0], [1]], N, axis=1),
        "name": rng.integers(8, size=(2, N)),
    }


def named(codes: np.ndarray, world: dict[str, np.ndarray]):
    variables = [varying(name, world[name]) for name in ("template", "order", "name")]
    names = name_codes({"a": codes[:, :FITTED]}, {"a": codes[:, FITTED:]}, variables, FITTED)["a"]
    return names[0] if names else None


def noisy(ids: np.ndarray, share: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.where(rng.random(ids.shape) < share, rng.integers(ids.max() + 1, size=ids.shape), ids)


@pytest.mark.parametrize("variable", ["template", "order", "name"])
def test_a_code_is_named_by_what_it_tells(variable, world):
    name = named(noisy(world[variable]), world)
    assert name is not None and name.variable == variable
    assert name.q <= 0.05 and name.ami > 0.4 > name.ami_null and name.accuracy > 0.8 > name.commonest
    assert name.values == {i: f"{variable}{i}" for i in range(int(world[variable].max()) + 1)}


def test_what_only_tells_the_sides_apart_or_nothing_gets_no_name(world):
    assert named(noisy(world["side"]), world) is None
    assert named(np.random.default_rng(2).integers(4, size=(2, N)), world) is None
    assert named(np.zeros((2, N), dtype=int), world) is None


def test_adjusted_mutual_information_is_that_of_scikit_learn(world):
    codes, values = noisy(world["name"], 0.5).ravel(), world["name"].ravel()
    orders = np.stack([np.random.default_rng(i).permutation(2 * N) for i in range(19)])
    ami, null, p = _ami(codes, values, orders)
    assert ami == pytest.approx(adjusted_mutual_info_score(values, codes))
    expected = np.mean([adjusted_mutual_info_score(values, codes[order]) for order in orders])
    assert null == pytest.approx(expected, abs=1e-9) and p == 1 / 20


def test_the_usual_code_of_a_value_needs_prompts():
    codes, values = np.array([[1, 1, 2, 0]]), np.array([[0, 0, 0, 1]])
    assert usual_codes(codes, values, 3, least=2).tolist() == [1, -1, -1]
