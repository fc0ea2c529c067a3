"""The card of a circuit: a planted one is faithful, complete and found again; one of random heads is nothing of it."""

import json

import numpy as np
import pytest
import torch

import interp
from interp.activations.metric import kl_divergence
from interp.circuits.circuit import Validity
from interp.errors import InputError
from interp.evaluation.faithfulness import faithfulness_curves
from interp.evaluation.validity import intervene, matched_random
from interp.interventions.ablation import Ablator, all_or_none
from interp.planted.models import planted_truth
from interp.report.validity import card_rows
from interp.runs.folder import RESULT, VALIDITY
from interp.runs.run import Run
from interp.runs.validate import validate
from interp.tasks import write_prompt_file
from tests.oracles import planted, written

NAME = "planted-inhibition"


@pytest.fixture(scope="module")
def run() -> Run:
    return interp.find_circuit(NAME, NAME, n=8)


@pytest.fixture(scope="module")
def card(run) -> Validity:
    return validate(run, n=6)


def _of_heads(run: Run, sites: set[str], **values) -> Run:
    """The run with other members."""
    heads = [head.model_copy(update={"in_circuit": head.site in sites}) for head in run.heads]
    arrays = {name: array for name, array in run.arrays.items() if name != "patterns"}
    return run.model_copy(update={"heads": heads, "arrays": arrays, **values})


def test_the_planted_circuit_is_faithful_complete_and_found_again(card):
    numbers, random = card.circuit, card.circuit.random
    assert card.held_out and (numbers.n_heads, numbers.n_pairs) == (4, 6)
    assert numbers.share.value == pytest.approx(1, abs=0.01) and numbers.kl < 0.01
    assert numbers.left.value == pytest.approx(0, abs=0.01)
    assert numbers.share.low - 1e-9 <= numbers.share.value <= numbers.share.high + 1e-9
    assert random.draws == 20 and random.kl_mean > 1
    assert random.share_mean <= random.share_largest < 0.05 < 0.95 < random.left_least <= random.left_mean
    assert (card.jaccard.value, card.jaccard.low, card.jaccard.high) == (1, 1, 1)
    assert [rival.seed for rival in card.rivals] == [1, 2, 3] and card.best_rival in card.rivals
    for rival in card.rivals:
        assert set(rival.heads) == set(planted_truth(NAME).heads) and rival.jaccard == 1
        assert rival.share == pytest.approx(numbers.share.value)


def test_other_tasks_of_the_same_words_lose_as_much_and_those_of_others_are_named(card):
    """Whoever repeats a name, the same heads do it: no task that it does is its own."""
    own_task, *others = card.tasks
    assert own_task.task == NAME and own_task.lost == pytest.approx(1, abs=0.01)
    assert {"planted-backup", "planted-or"} <= {on.task for on in others}
    assert all(on.lost > 0.9 and abs(on.lost_random) < 0.05 for on in others)
    [why] = card.left_out
    assert "docstring" in why and "planted-induction" in why


def test_a_circuit_of_random_heads_has_a_bad_card_and_no_code_is_run_that_a_run_names(run):
    sites = {"a0.h0", "a1.h0", "a2.h3", "a3.h1"}
    numbers = validate(_of_heads(run, sites, method="trap.py:f"), n=5, seeds=1)
    assert numbers.circuit.share.value < 0.05 and numbers.circuit.left.value > 0.95 and numbers.circuit.kl > 1
    assert numbers.jaccard.high == 0 and numbers.tasks[0].lost < 0.05
    assert numbers.rivals == [] and numbers.best_rival is None
    assert any("trap.py:f is no method of this package" in why for why in numbers.left_out)


def test_areas_and_shares_are_those_of_faithfulness_curves():
    ablator, members = Ablator(*planted("planted-backup", 6)), written("planted-backup")
    ranking = np.random.default_rng(0).normal(size=members.shape) + 2 * members
    random = [matched_random(members, np.random.default_rng(0))]
    numbers, rivals = intervene(ablator, ranking, members, random, [members])
    curves = faithfulness_curves(ablator, ranking)
    assert (numbers.cmd, numbers.cpr) == pytest.approx((curves.cmd, curves.cpr), abs=1e-6)
    by_size = {point.n_heads: point for point in numbers.nested}
    assert by_size[10].share == pytest.approx(curves.f_at[10], abs=1e-6)
    assert by_size[members.size].kl == 0 < by_size[0].kl
    assert rivals == pytest.approx([numbers.share.value])


def test_kl_of_no_head_is_that_of_the_corrupt_prompt():
    model, pairs = planted("planted-induction", 4)
    ablator = Ablator(model, pairs)
    circuits = all_or_none(ablator.shape)
    metric, kl = ablator.metric_and_kl(circuits)
    np.testing.assert_array_equal(metric, ablator.metric(circuits))
    with torch.no_grad():
        clean, corrupt = (
            model(torch.tensor([getattr(pair, side) for pair in pairs]))[:, -1].log_softmax(-1)
            for side in ("clean_tokens", "corrupt_tokens")
        )
    np.testing.assert_allclose(kl[0], kl_divergence(clean, corrupt).numpy(), rtol=1e-3)
    assert not kl[1].any()


def test_random_circuits_have_the_layers_of_the_members_and_other_heads_where_there_are_some():
    members = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=bool)
    draws = [matched_random(members, np.random.default_rng(seed)) for seed in range(30)]
    for drawn in draws:
        np.testing.assert_array_equal(drawn.sum(1), members.sum(1))
        assert not (drawn & members)[0].any() and drawn[2, 4]
    assert len({drawn.tobytes() for drawn in draws}) > 5


def test_the_card_is_kept_beside_the_run_and_a_damaged_one_is_one_line(run, card, tmp_path, command):
    folder = run.model_copy(update={"validity": card}).save(tmp_path / "run")
    assert Run.load(folder).validity == card
    assert "validity" not in json.loads((folder / RESULT).read_text())
    for text in ("{", "[]", card.model_dump_json().replace('"cmd":', '"dmc":')):
        (folder / VALIDITY).write_text(text)
        for words in ("report", "validate"):
            message = command(words, str(folder)).error
            assert "damaged" in message and f"delete {folder / VALIDITY}" in message
    (folder / VALIDITY).unlink()
    assert Run.load(folder).validity is None


def test_what_cannot_be_validated_is_one_line(run, tmp_path, command):
    assert "is not a run folder" in command("validate", str(tmp_path)).error
    cases = {
        "no heads in its circuit": _of_heads(run, set()),
        "not at hand": run.model_copy(update={"task": "mine.py:Task"}),
        "does not name its model": run.model_copy(update={"model": None}),
    }
    for message, other in cases.items():
        folder = other.save(tmp_path / "run", overwrite=True)
        assert message in command("validate", str(folder)).error
        assert not (folder / VALIDITY).exists()
    with pytest.raises(InputError, match="the model has"):
        validate(run, interp.load_model("planted-hydra"))


@pytest.mark.usefixtures("elsewhere")
def test_the_command_on_a_file_without_more_rows_uses_its_own_and_says_so(command):
    model, pairs = planted("planted-induction", 10)
    write_prompt_file(pairs, "mine.json", model.tokenizer)
    words = ["discover", "mine.json", "--model", "planted-induction", "--no-program", "--out", "run"]
    assert command(*words).code == 0
    done = command("validate", "run", "--seeds", "1")
    assert done.code == 0, done.err
    card = Run.load("run").validity
    assert not card.held_out and [(rival.n_pairs, rival.jaccard) for rival in card.rivals] == [(5, 1.0)]
    assert all(cell in done.out for row in card_rows(card) for cell in row)
    again = command("validate", "run", "--seeds", "0", "-n", "5", "--json")
    assert Validity.model_validate_json(again.out) == Run.load("run").validity
