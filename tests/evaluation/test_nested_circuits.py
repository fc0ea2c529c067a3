"""A grown circuit is run on other prompts: its shares are those of running it, with an interval and random heads."""

import json

import numpy as np
import pytest

from interp.errors import InputError
from interp.evaluation.faithfulness import faithfulness_curves
from interp.evaluation.nested_circuits import n_circuits, run_nested
from interp.interventions.ablation import Ablator, all_or_none
from interp.planted.models import planted_truth
from interp.prompts.sampling import held_out_pairs
from interp.scores.adaptive_patching.nested import nested_circuits
from interp.tasks import load_task
from tests.oracles import planted

NAME = "planted-inhibition"


@pytest.fixture(scope="module")
def grown():
    model, pairs = planted(NAME, 8)
    others = held_out_pairs(load_task(NAME), model.tokenizer, 10, pairs)
    nested = nested_circuits(model, pairs)
    return model, others, nested, run_nested(nested, Ablator(model, others))


def test_shares_are_those_of_running_the_circuit(grown):
    model, others, nested, curve = grown
    assert [circuit.size for circuit in curve.circuits] == list(nested.sizes)
    ablator, done = Ablator(model, others), []
    for circuit in curve.circuits:
        circuits = np.stack([*all_or_none(nested.heads.shape), nested.circuit(circuit.size)])
        empty, full, alone = ablator.metric(circuits).mean(1)
        assert circuit.share == pytest.approx((alone - empty) / (full - empty))
        assert circuit.interval[0] - 1e-9 <= circuit.share <= circuit.interval[1] + 1e-9
    assert curve.cmd == pytest.approx(faithfulness_curves(ablator, nested.heads, sizes=()).cmd, abs=1e-6)
    assert run_nested(nested, ablator, progress=done.append) == curve
    assert sum(done) == n_circuits(nested) * len(others)


def test_the_written_heads_do_the_task_and_as_many_random_heads_do_not(grown):
    *_, nested, curve = grown
    written = set(planted_truth(NAME).heads)
    joined = [site for circuit in curve.circuits for site in circuit.joined]
    assert len(joined) == len(set(joined)) == nested.sizes[-1]
    large = next(circuit for circuit in curve.circuits if circuit.size >= len(written))
    assert set(joined[: large.size]) == written
    assert large.share > 0.95 and large.random < 0.6


def test_another_model_is_refused(grown):
    nested, ablator = grown[2], Ablator(*planted("planted-hydra", 3))
    with pytest.raises(InputError, match="for a model of shape"):
        run_nested(nested, ablator)


@pytest.mark.usefixtures("elsewhere")
def test_the_command_writes_what_it_found_and_replaces_nothing(tmp_path, command):
    words = ["grow", NAME, "-n", "6", "--held-out", "5"]
    for more in ([], ["--model", "planted-backup"], []):
        outcome = command(*words, *more)
        assert outcome.code == 0 and "random heads" in outcome.out
        assert " ".join(["next     interp discover", NAME, *more]) in outcome.out
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == [f"{NAME}-grown-2.json", f"{NAME}-grown.json", f"{NAME}-planted-backup-grown.json"]
    result = json.loads((tmp_path / "runs" / f"{NAME}-grown.json").read_text(encoding="utf-8"))
    assert result["n_pairs"] == 5 and result["prompts"]["n_pairs"] == 6
    joined = {site for circuit in result["circuits"] for site in circuit["joined"]}
    assert joined >= set(planted_truth(NAME).heads)
