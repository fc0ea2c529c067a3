"""Roles of planted heads are read off without being told."""

import copy

import numpy as np
import pytest

from interp.activations.stream import MetricConsumer, feed
from interp.circuits.roles import ROLE_BAR, HeadReadout, head_roles, role_name
from interp.planted.models import load_planted_model, planted_truth
from tests.oracles import at, planted


@pytest.fixture(scope="module")
def readouts():
    by_name = {}
    for name in ("planted-induction", "planted-inhibition", "planted-backup"):
        model, pairs = planted(name, 16)
        readout, metric = HeadReadout(model, len(pairs)), MetricConsumer(len(pairs))
        feed(model, pairs, [readout, metric])
        by_name[name] = (readout, head_roles(model, readout), metric)
    return by_name


def _heads(name, role):
    return [at(site) for site, known in planted_truth(name).heads.items() if role in known.lower()]


@pytest.mark.parametrize(
    ("name", "planted", "role"),
    [
        ("planted-induction", "previous", "previous-token"),
        ("planted-induction", "induction", "induction"),
        ("planted-inhibition", "mover", "mover"),
        ("planted-inhibition", "inhibition", "inhibition"),
        ("planted-backup", "negative", "negative-mover"),
    ],
)
def test_a_planted_head_looks_like_what_it_is(readouts, name, planted, role):
    heads = _heads(name, planted)
    assert heads
    roles = readouts[name][1]
    for layer, head in heads:
        attention = roles.of(layer, head)
        assert attention[role] >= ROLE_BAR
        # an induction head that copies the answer to END is a mover there, too
        assert role_name(attention) == role or (role == "induction" and role_name(attention) == "mover")


def test_a_duplicate_token_head_looks_back_at_the_same_token_and_not_beside_it(readouts):
    (layer, head) = _heads("planted-inhibition", "duplicate")[0]
    role = readouts["planted-inhibition"][1].of(layer, head)
    assert role["duplicate-token"] > 0.25 > role["induction"]


def test_contributions_sum_to_the_logit_difference_of_a_linear_model_and_scores_are_shares(readouts):
    for readout, roles, metric in readouts.values():
        # embeddings write nothing that the planted unembeddings read
        np.testing.assert_allclose(readout.direct_.sum((1, 2)), metric.metric_[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(readout.total_, metric.metric_[0], rtol=1e-3, atol=1e-3)
        for score in roles.scores.values():
            assert score.min() >= 0 and score.max() <= 1 + 1e-6
        np.testing.assert_allclose(readout.patterns_.sum(-1), 1, atol=1e-4)


def test_a_suppressor_attends_to_the_wrong_answer_and_writes_against_it(readouts):
    readout = copy.deepcopy(readouts["planted-inhibition"][0])
    readout.to_answer_[:], readout.to_wrong_[:], readout.direct_[:] = 0.0, 0.9, 0.0
    readout.direct_[:, 3, 3], readout.direct_[:, 3, 2] = readout.total_, -readout.total_
    roles = head_roles(load_planted_model("planted-inhibition"), readout)
    assert roles.of(3, 3)["suppressor"] == pytest.approx(0.9) and roles.of(3, 2)["suppressor"] == 0
