"""Patches are those of whole forwards; another kind of intervention is one file that makes them."""

import importlib.util

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.interventions.clean_run import CleanRun
from interp.interventions.patch import Patch
from interp.models import Site
from tests.oracles import WholeForwards
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES

HALVED = '''
"""Half of what a site writes, at one position a row: a kind of intervention."""

from interp.interventions.patch import Patch


def halved(clean, site, pairs, positions):
    return Patch(site, -0.5 * clean.at(site, pairs, positions, corrupt=False), positions, add=True)
'''


def whole_forward(model, pair, hook, change) -> torch.Tensor:
    def patch(x, **_):
        return change(x.clone())

    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([pair.clean_tokens]), fwd_hooks=[(hook, patch)])[:, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_kind_of_intervention_is_one_file(family, tiny_model, tmp_path):
    path = tmp_path / "halved.py"
    path.write_text(HALVED)
    spec = importlib.util.spec_from_file_location("halved", path)
    kind = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kind)
    model, pairs = tiny_model(family), random_pairs(60, n=4, lengths=(9, 12))
    clean, rows = CleanRun.of(model, pairs, mlps=True), np.array([0, 1, 2, 3, 2])
    for site in (Site("attn", 1, 2), Site("attn", 0), Site("mlp", 0)):
        positions = np.array([3, 8, 5, 7, 2])
        outcome = clean.run(rows, [kind.halved(clean, site, rows, positions)], every_token=True)
        for row, (pair, position) in enumerate(zip((pairs[i] for i in rows), positions, strict=True)):

            def half(x, position=position, site=site):
                place = (0, position) if site.head is None else (0, position, site.head)
                x[place] *= 0.5
                return x

            logits = whole_forward(model, pair, site.hook, half)
            assert outcome.metric[row] == pytest.approx(task_metric(logits, [pair], "logit_diff").item(), abs=1e-4)
            assert outcome.top[row] == logits.argmax()
    assert np.abs(outcome.metric - clean.metric_[0, rows]).max() > 1e-3


def test_patches_without_positions_are_of_all_of_them_and_reach_no_other_row(tiny_model):
    model, pairs = tiny_model("llama"), random_pairs(60, n=3, lengths=(9, 12))
    clean, rows, site = CleanRun.of(model, pairs), np.arange(3), Site("attn", 0, 1)
    only = np.array([True, False, True])
    outcome = clean.run(rows, [Patch(site, clean.corrupt_z[0][:, :, 1], rows=only)])
    assert outcome.metric[1] == clean.metric_[0, 1] and outcome.preferred[1] == clean.preferred_[1]
    for row in (0, 2):
        assert outcome.metric[row] == pytest.approx(WholeForwards(model, pairs[row]).without(site), abs=1e-4)
    effects, _ = clean.effects(rows, np.zeros(3, dtype=int), np.ones(3, dtype=int))
    np.testing.assert_allclose((clean.metric_[0] - outcome.metric)[only], effects[only], atol=1e-4)
    assert np.abs(effects).min() > 1e-3
