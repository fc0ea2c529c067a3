"""A method of one's own in a short file is everywhere that a shipped one is."""

import json

import numpy as np
import pytest

import interp
from interp.bench.plan import BenchPlan
from interp.bench.run import run_bench
from interp.errors import InputError
from interp.scores.method import Context, Method
from interp.scores.registry import load_method
from interp.scores.result import Scores

METHOD = '''
from dataclasses import dataclass

import numpy as np

from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class GradientNormConfig(MethodConfig):
    power: float = 2.0


@method(config=GradientNormConfig, scores_mlps=False)
def gradient_norm(context: Context) -> Scores:
    """The norm of the gradient at each head's output."""
    heads = np.zeros((len(context.pairs), context.model.cfg.n_layers, context.model.cfg.n_heads))
    for batch in context.batches(gradients=True):
        for layer, gradient in enumerate(batch.z_gradient):
            heads[list(batch.indices), layer] = gradient.norm(context.config.power, dim=(1, 3))
    return Scores.from_pairs(heads, signed=False)
'''


@pytest.fixture
def spec(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(METHOD, encoding="utf-8")
    return "own.py:gradient_norm"


def test_in_a_discovery_a_bench_and_the_list_of_options(spec, tmp_path, command):
    words = f"discover planted-induction --method {spec} -n 8 --set power=1 --json a.json"
    done = command(*words.split())
    assert done.code == 0, done.err
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored["method"] == spec and stored["settings"]["config"]["power"] == 1
    assert stored["cost"]["score"] == 4 * 8, "readers of the same pass cost no other"
    assert (tmp_path / "runs/planted-induction-gradient_norm/run.json").is_file()
    sizes = {"pairs": (5,), "seeds": 1, "pool": 16, "reference": 20, "held_out": 5}
    result = run_bench(BenchPlan(("planted-induction",), methods=(spec,), **sizes), tmp_path / "bench")
    assert spec in {row["method"] for row in result["cells"]}
    assert "power" in command("methods", spec).out


def test_a_plain_function_from_python_also_without_a_pass_of_its_own():
    def first_head(context: Context) -> Scores:
        heads = np.zeros((context.model.cfg.n_layers, context.model.cfg.n_heads))
        heads[0, 0] = 1.0
        return Scores(heads)

    run = interp.find_circuit("planted-induction", "planted-induction", method=first_head, n=8, candidates=1)
    assert run.method == "first-head" and run.heads[0].effect is not None
    assert isinstance(load_method(first_head), Method)


@pytest.mark.usefixtures("spec")
@pytest.mark.parametrize("name", ["own.py:nothing", "own.py:GradientNormConfig", "none.py:f", "no-such"])
def test_what_is_no_method_is_refused(name):
    with pytest.raises(InputError):
        load_method(name)
