"""Changes at single positions come out as in whole forwards, and change nothing else."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from interp.activations.metric import task_metric
from interp.interventions.clean_run import CleanRun
from interp.planted.models import load_planted_model
from interp.programs.slots import Edit, HeadAtRole, SlotRunner
from interp.prompts.pairs import PromptPairs
from tests.oracles import WholeForwards
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES


def placed(d_vocab: int) -> PromptPairs:
    """Pairs of two lengths, with a role that stands elsewhere in each."""
    pairs = random_pairs(d_vocab, n=6, lengths=(9, 12))
    for i, pair in enumerate(pairs):
        pairs[i] = replace(pair, positions={"X": 4 + i % 3, "END": len(pair.clean_tokens) - 1})
    return pairs


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
def test_edits_at_slots_are_those_of_whole_forwards(family, tiny_model):
    native = family.startswith("planted")
    model = load_planted_model(family) if native else tiny_model(family)
    pairs = placed(model.cfg.d_vocab)
    places = [("a0.h1", "X"), ("a1.h2", "END"), ("m1", "X")]
    slots = [HeadAtRole.of(*place) for place in (places[:2] if native else places)]
    runner = SlotRunner.of(model, pairs, mlps=True)
    generator = torch.Generator().manual_seed(0)
    rows = np.array([0, 3, 3, 5, 1, 2, 4])
    values = {slot: torch.randn(len(rows), runner.z(slot).shape[-1], generator=generator) for slot in slots}
    only = np.arange(len(rows)) != 2
    edits = [Edit(slots[0], values[slots[0]]), Edit(slots[1], values[slots[1]], rows=only, add=True)]
    edits += [Edit(slot, values[slot]) for slot in slots[2:]]
    result = runner.run(rows, edits, read=slots, every_token=True)
    for row, index in enumerate(rows):
        pair = pairs[index]
        whole = WholeForwards(model, pair)
        with torch.no_grad():
            clean_logits, clean = model.run_with_cache(torch.tensor([pair.clean_tokens]))
        hooks = []
        for edit in edits:
            slot, at = edit.slot, pair.positions[edit.slot.role]
            place = (0, at) if slot.site.head is None else (0, at, slot.site.head)
            for side, activations in enumerate((clean, whole.corrupt)):
                there = activations[slot.site.hook][place]
                torch.testing.assert_close(runner.z(slot)[side, index], there, atol=1e-5, rtol=0)
            if edit.rows is None or edit.rows[row]:
                hooks.append((slot.site.hook, partial(put, place, edit.values[row], edit.add)))
        with torch.no_grad():
            logits = model.run_with_hooks(torch.tensor([pair.clean_tokens]), fwd_hooks=hooks)[:, -1]
        assert runner.metric[0, index] == pytest.approx(whole.metric({}), abs=1e-4)
        assert result.metric[row] == pytest.approx(task_metric(logits, [pair], "logit_diff").item(), abs=1e-4)
        answers = [*pair.answers, *pair.wrong_answers]
        assert result.preferred[row] == answers[int(logits[0, answers].argmax())]
        p, q = (of.softmax(-1).double().numpy()[0] for of in (clean_logits[:, -1], logits))
        before, after = np.delete(p, answers), np.delete(q, answers)
        expected = entropy(before / before.sum(), after / after.sum())
        assert result.off_target[row] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert result.kl[row] == pytest.approx(entropy(p, q), rel=1e-3, abs=1e-5)
        assert result.top[row] == logits.argmax()
    torch.testing.assert_close(result.read[0], values[slots[0]], atol=1e-6, rtol=0)
    assert not np.allclose(result.metric, runner.metric[0, rows], atol=1e-3) and result.off_target.max() > 1e-3


def put(place: tuple[int, ...], value: torch.Tensor, add: bool, x: torch.Tensor, **_) -> torch.Tensor:
    """What an edit does, as a hook of a whole forward."""
    x = x.clone()
    x[place] = x[place] + value if add else value
    return x


def test_what_stands_before_a_change_stays(model, monkeypatch):
    monkeypatch.setattr(CleanRun, "_unpatched", None)  # logits of all tokens only where asked for
    pairs = placed(model.cfg.d_vocab)
    places = [("a0.h1", "X"), ("a1.h2", "END"), ("a1.h1", "X"), ("a0.h2", "END")]
    early, late, other, first = (HeadAtRole.of(*place) for place in places)
    runner = SlotRunner.of(model, pairs)
    rows = np.arange(len(pairs))
    result = runner.run(rows, [Edit(late, runner.z(late)[1])], read=[early])
    torch.testing.assert_close(result.read[0], runner.z(early)[0], atol=0, rtol=0)
    result = runner.run(rows, [Edit(first, runner.z(first)[1])], read=[other, late])
    torch.testing.assert_close(result.read[0], runner.z(other)[0], atol=0, rtol=0)
    assert not torch.allclose(result.read[1], runner.z(late)[0], atol=1e-3)
    same = runner.run(rows, [Edit(early, runner.z(early)[0])], read=[late])
    np.testing.assert_allclose(same.metric, runner.metric[0], atol=1e-5)
    torch.testing.assert_close(same.read[0], runner.z(late)[0], atol=1e-5, rtol=0)
    assert (same.preferred == runner.preferred).all() and (same.top == -1).all()
    assert np.isnan(same.off_target).all()
