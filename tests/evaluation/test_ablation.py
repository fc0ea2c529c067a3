"""Circuits run alone: every kind of ablation against a way of its own, and what must not depend on the kind."""

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.interventions.ablation import KINDS, Ablator, all_or_none
from tests.oracles import WholeForwards, heads_of, planted, written
from tests.pairs import random_pairs

FAMILIES = ("gpt2", "pythia", "llama", "gemma3")


def _pairs(model, lengths=(9,), n=6):
    return random_pairs(model.cfg.d_vocab, n=n, lengths=lengths)


def _masks(model, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, model.cfg.n_layers, model.cfg.n_heads)) < 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_agrees_with_one_prompt_and_one_circuit_at_a_time(tiny_model, family, kind):
    model = tiny_model(family)
    pairs, keep = _pairs(model, lengths=(9, 7, 9), n=3), _masks(model, 3)
    runs = [WholeForwards(model, pair, pairs.metric) for pair in pairs]

    def fill(run, hook):
        output, others = run.corrupt[hook], [other.corrupt[hook][0] for other in runs]
        if kind == "zero":
            return torch.zeros_like(output)
        if kind == "mean-by-position":
            return torch.stack([x for x in others if x.shape == output[0].shape]).mean(0, keepdim=True)
        return output if kind == "resample" else torch.cat(others).mean(0).expand_as(output)

    metric = Ablator(model, pairs, kind, batch_size=4).metric(keep)
    for c in range(3):
        gone = [site for site in heads_of(model) if not keep[c, site.layer, site.head]]
        wanted = [run.metric({site: fill(run, site.hook) for site in gone}) for run in runs]
        np.testing.assert_allclose(metric[c], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_everything_is_the_clean_model_which_is_left_as_it_was(model, kind):
    pairs = _pairs(model)
    ablator = Ablator(model, pairs, kind)
    everything = ablator.metric(all_or_none(ablator.shape))[1]
    np.testing.assert_allclose(everything, ablator.metric_clean, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(Ablator(model, pairs, kind).metric_clean, ablator.metric_clean)


def test_the_planted_circuit_alone_does_the_task_and_all_others_are_idle():
    circuit = written("planted-induction")
    circuits = np.stack([*all_or_none(circuit.shape), circuit, ~circuit])
    empty, full, alone, rest = Ablator(*planted("planted-induction", 16)).metric(circuits).mean(1)
    assert alone == pytest.approx(full, rel=0.01)
    assert rest == pytest.approx(empty, abs=0.01 * full)
    assert abs(empty) < 0.05 * full


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_circuits_that_keep_no_early_head_begin_where_the_empty_one_is(tiny_model, family, kind):
    model = tiny_model(family)
    pairs = _pairs(model, lengths=(9, 7))
    late = np.zeros((3, model.cfg.n_layers, model.cfg.n_heads), dtype=bool)
    late[1, -1, 0] = late[2, -1, 1] = True
    ablator = Ablator(model, pairs, kind)
    before = ablator.forwards
    alone = ablator.metric(late)
    # one run of the empty circuit, and half of the two-layer model a circuit
    assert ablator.forwards - before == (1 + 3 / 2) * len(pairs)
    beside_one_from_the_bottom = np.concatenate([late, np.ones_like(late[:1])])
    together = Ablator(model, pairs, kind).metric(beside_one_from_the_bottom)
    np.testing.assert_allclose(together[:3], alone, atol=1e-5)


def test_bad_input_is_said_in_one_line(tiny_model):
    model = tiny_model("gpt2")
    pairs = _pairs(model)
    with pytest.raises(InputError, match="ablation 'noise': choose resample, mean"):
        Ablator(model, pairs, "noise")
    with pytest.raises(InputError, match="the model has 2 layers of 3 heads"):
        Ablator(model, pairs).metric(np.ones((2, 3, 3), dtype=bool))
