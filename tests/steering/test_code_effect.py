"""Setting a head's code on a task: the metric moves by what the very same edit gives prompt by prompt."""

import numpy as np
import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.errors import InputError
from interp.prompts.pairs import PromptPair, PromptPairs
from interp.stats import mean_interval
from interp.steering import code_effect
from tests.pairs import random_pairs

CODES = 10


@pytest.fixture(scope="module")
def books() -> dict[str, Codebook]:
    """Codes for a layer's heads, each its own; for one head of the other layer; and for an MLP."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for site, groups, d_in in (("a0", 4, 6), ("a1.h2", 1, 6), ("m0", 1, 24)):
        shape = (200, groups, d_in) if groups > 1 else (200, d_in)
        config = CodebookConfig(d_in=d_in, n_codes=CODES, groups=groups, k=2, selection="matching_pursuit")
        made[site] = Codebook(config).fit(torch.randn(shape, generator=generator))
    return made


@pytest.fixture
def pairs(model) -> PromptPairs:
    """Of two lengths, with a role that stands elsewhere in every other pair."""
    made = random_pairs(model.cfg.d_vocab, n=6, lengths=(9, 7))
    for i, pair in enumerate(made):
        pair.positions["S"] = 2 if i % 2 else 4
    return made


def _alone(model, books, pair: PromptPair, side: str, site=None, code=0, at=None) -> tuple[float, dict]:
    """Metric and ids of one prompt by itself."""
    tokens = pair.clean_tokens if side == "clean" else pair.corrupt_tokens
    with torch.no_grad(), attach(model, books, error_term=True) as attached:
        if site is not None:
            attached.edit(SetCode(site, code), positions="all" if at is None else at)
        end = model(torch.tensor([tokens]))[0, -1]
    metric = end[list(pair.answers)].mean() - end[list(pair.wrong_answers)].mean()
    return float(metric), {name: ids[0].numpy() for name, ids in attached.ids.items()}


def test_metric_and_codes_are_those_of_each_prompt(model, books, pairs):
    forwards = []
    read = code_effect.read_pairs(model, books, pairs, batch_size=2, progress=forwards.append)
    assert sum(forwards) == 2 * len(pairs)
    for i, pair in enumerate(pairs):
        for row, side in enumerate(("clean", "corrupt")):
            metric, ids = _alone(model, books, pair, side)
            assert read.metric[row, i] == pytest.approx(metric, abs=1e-4)
            np.testing.assert_array_equal(read.of_head("a0.h3", side, i), ids["a0"][:, 3])
            np.testing.assert_array_equal(read.of_head("a1.h2", side, i), ids["a1.h2"])
            assert read.strongest("a0.h3", "S", side)[i] == ids["a0"][pair.positions["S"], 3, 0]
    assert "m0" not in read.codes[0]
    with pytest.raises(InputError):
        read.of_head("a1.h0", "clean", 0)


@pytest.mark.parametrize(
    ("site", "role", "side"),
    [("a0.h1", "S", "clean"), ("a0.h1", None, "corrupt"), ("a1.h2", "END", "clean"), ("a1.h2", "S", "corrupt")],
)
def test_setting_a_code_gives_what_each_prompt_gives_by_itself(model, books, pairs, site, role, side):
    read = code_effect.read_pairs(model, books, pairs)
    codes = [3, 4, 5, 3, 4, 5]
    forwards = []
    effect = code_effect.set_code(
        model, books, read, site, codes, role=role, side=side, seed=1, progress=forwards.append
    )
    assert sum(forwards) == 2 * len(pairs) and effect.codes == tuple(codes)
    assert set(effect.random_codes) <= set(range(CODES))
    assert all(drawn != code for drawn, code in zip(effect.random_codes, codes, strict=True))
    for i, pair in enumerate(pairs):
        at = None if role is None else code_effect.position(pair, role)
        before, _ = _alone(model, books, pair, side)
        assert effect.before[i] == pytest.approx(before, abs=1e-4)
        for values, chosen in ((effect.with_codes, codes[i]), (effect.with_random, effect.random_codes[i])):
            assert values[i] == pytest.approx(_alone(model, books, pair, side, site, chosen, at)[0], abs=1e-4)
    moved = abs(effect.with_codes - effect.before).max()
    # what the last layer writes before END is read by nothing
    assert moved == 0 if (site, role) == ("a1.h2", "S") else moved > 1e-3
    again = code_effect.set_code(model, books, read, site, codes, role=role, side=side, seed=1)
    np.testing.assert_array_equal(again.with_random, effect.with_random)


def test_a_prompts_own_code_changes_nothing(model, books, pairs):
    read = code_effect.read_pairs(model, books, pairs)
    effect = code_effect.set_code(model, books, read, "a0.h1", read.strongest("a0.h1", "S", "clean"), role="S")
    np.testing.assert_allclose(effect.with_codes, effect.before, atol=1e-5)
    mean, low, high = effect.change()
    assert abs(mean) < 1e-5 and low <= mean <= high
    random = effect.with_random - effect.before
    low, high = mean_interval(random[:, None], 0)
    assert effect.change(random=True) == pytest.approx((random.mean(), low[0], high[0]))
    assert effect.beyond()[0] == pytest.approx(mean - random.mean())


def test_shares_count_prompts_or_tokens(pairs):
    codes = tuple({"a0": np.full((2, len(pair.clean_tokens), 4, 1), i % 3)} for i, pair in enumerate(pairs))
    read = code_effect.PairCodes(pairs, np.zeros((2, len(pairs))), codes)
    assert read.shares("a0.h0", "END", "clean") == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})
    codes[0]["a0"][0, 4] = 7
    assert read.shares("a0.h0", "S", "clean")[7] == pytest.approx(1 / 6)
    assert read.shares("a0.h0", None, "clean")[7] == pytest.approx(1 / 48)
    assert 7 not in read.shares("a0.h0", None, "corrupt")


def test_what_cannot_be_set_is_an_input_error(model, books, pairs):
    read = code_effect.read_pairs(model, books, pairs)
    for site, code, role, message in (
        ("a0.h1", 99, "S", "code 99 at a0.h1: the codebook there has 0 to 9"),
        ("a1.h0", 1, "S", "no codebook at a1.h0"),
        ("a0.h1", 1, "X", "role 'X': choose END, S"),
    ):
        with pytest.raises(InputError, match=message):
            code_effect.set_code(model, books, read, site, code, role=role)
    mean, low, high = code_effect.mean_with_interval(np.array([2.0]))
    assert mean == 2.0 and np.isnan(low) and np.isnan(high), "one pair has no interval"
