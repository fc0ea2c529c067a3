"""A method of one's own in 45 lines or fewer is everywhere that a shipped one is."""

import json

import numpy as np
import pytest

import interp
from interp.errors import InputError
from interp.scores.method import Context, Method
from interp.scores.registry import load_method
from interp.scores.result import Scores
from tests.command_line import run_command

METHOD = '''
"""How large the gradient of the metric is at a head's output, whatever the head writes there."""

from dataclasses import dataclass

import numpy as np

from interp.activations.stream import Consumer
from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class GradientNormConfig(MethodConfig):
    """
    Attributes:
        power: of the norm.
    """

    power: float = 2.0


class Norms(Consumer):
    needs_gradients = True

    def __init__(self, n_pairs: int, power: float) -> None:
        self.n_pairs, self.power, self.heads = n_pairs, power, None

    def update(self, batch) -> None:
        norms = np.stack([g.float().norm(self.power, dim=(1, 3)).cpu().numpy() for g in batch.z_gradient], 1)
        if self.heads is None:
            self.heads = np.zeros((self.n_pairs, *norms.shape[1:]))
        self.heads[list(batch.indices)] = norms


@method(config=GradientNormConfig, scores_mlps=False)
def gradient_norm(context: Context) -> Scores:
    """The norm of the gradient at each head's output."""
    norms = Norms(len(context.pairs), context.config.power)
    context.run(norms)
    return Scores.from_pairs(norms.heads, signed=False)
'''


@pytest.fixture
def spec(tmp_path, monkeypatch) -> str:
    assert len(METHOD.strip().splitlines()) <= 45
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(METHOD, encoding="utf-8")
    return "own.py:gradient_norm"


def test_in_a_discovery_a_bench_and_the_list_of_options(spec, tmp_path, monkeypatch, capsys):
    words = [
        "discover",
        "planted-induction",
        "--method",
        spec,
        "-n",
        "8",
        "--set",
        "power=1",
        "--json",
        "a.json",
    ]
    done = run_command(words, monkeypatch, capsys)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["method"] == spec and found["settings"]["config"]["power"] == 1
    assert found["cost"]["score"] == 4 * 8, "readers of the same pass cost no other"
    assert (tmp_path / "runs/planted-induction-gradient_norm/run.json").is_file()
    words = ["bench", "--tasks", "planted-induction", "--methods", spec, "--pairs", "5", "--seeds", "1"]
    done = run_command([*words, "--out", "bench"], monkeypatch, capsys)
    assert done.code == 0, done.err
    assert spec in {row["method"] for row in json.loads((tmp_path / "bench/bench.json").read_text())["cells"]}
    assert "power" in run_command(["methods", spec], monkeypatch, capsys).out


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
