"""More texts than a forward takes: everything that is summed or cut over batches is as of all at once."""

import numpy as np
import pytest
import torch

from interp.evaluation.steering_conditions import means_of_texts
from interp.steering import find_codes
from interp.steering.continuations import surprise
from tests.steering.test_find import MARKED, PLAIN, books, model  # noqa: F401 - fixtures


def test_the_same_codes_are_found(model, books, monkeypatch):  # noqa: F811
    whole = find_codes(model, books, MARKED, PLAIN)
    monkeypatch.setattr("interp.steering.texts.BATCH_SIZE", 3)
    found = find_codes(model, books, MARKED, PLAIN)
    assert [(c.site, c.code) for c in found.codes] == [(c.site, c.code) for c in whole.codes]
    for ours, theirs in zip(found.codes, whole.codes, strict=True):
        assert (ours.weight, ours.effect) == pytest.approx((theirs.weight, theirs.effect), rel=2e-3)


def test_means_of_texts_are_the_same(model, monkeypatch):  # noqa: F811
    whole = means_of_texts(model, ["r0"], MARKED, PLAIN)
    monkeypatch.setattr("interp.evaluation.steering_conditions.BATCH_SIZE", 3)
    again = means_of_texts(model, ["r0"], MARKED, PLAIN)
    torch.testing.assert_close(again.positive, whole.positive)
    torch.testing.assert_close(again.negative, whole.negative)


def test_each_text_is_judged_after_its_own_prompt(model, monkeypatch):  # noqa: F811
    prompts, new = [[1, 20, 31, 7], [1, 20], [1, 9, 5]], [[11, 12, 40], [50, 8, 8], [30, 31]]
    alone = [surprise(model, [p], [n])[0] for p, n in zip(prompts, new, strict=True)]
    monkeypatch.setattr("interp.steering.continuations.BATCH_SIZE", 2)
    for ours, theirs in zip(surprise(model, prompts, new), alone, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
