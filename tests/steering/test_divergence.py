"""KL and surprise of each new token against plain forwards of every prefix, and random controls."""

import numpy as np
import pytest
import torch

from interp.bottlenecks.attach import attach
from interp.bottlenecks.kinds.vq import ResidualVQ, VQConfig
from interp.errors import InputError
from interp.models import Model, hooked
from interp.models.generate import generate
from interp.steering import AddCode, SetCode, WeightedCode
from interp.steering.continuations import step_divergences, surprise
from interp.steering.request import random_codes
from tests.bottlenecks.test_edits import fitted

PROMPT = [1, 20, 31, 7]
NEW = [[11, 12, 40, 5, 9, 30], [50, 8, 8]]


@pytest.fixture(scope="module")
def books(model):
    tokens = torch.randint(10, model.cfg.d_vocab, (3, 9), generator=torch.Generator().manual_seed(0))
    return fitted(model, tokens, k=2, selection="matching_pursuit")


@torch.no_grad()
def _log_probabilities(model: Model, ids: list[int], added: torch.Tensor | None, begin: int) -> torch.Tensor:
    """Of the next token after ``ids``, with a vector added to an MLP's output from a column on, by a plain hook."""

    def add(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, begin:] += added
        return x

    with hooked(model, {} if added is None else {"blocks.1.hook_mlp_out": add}):
        return model(torch.tensor([ids]))[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize(("positions", "begin"), [("generated", 3), ("generated:3", 5), ("all", 0)])
def test_each_step_is_what_plain_forwards_of_the_prefix_give(model, books, positions, begin):
    edit = AddCode("m1", 4, scale=3.0, rows=[0])
    vector = 3.0 * books["m1"].codes.detach()[0, 4]
    divergences = step_divergences(model, books, [edit], PROMPT, NEW, positions=positions)
    assert [len(row) for row in divergences] == [6, 3]
    assert np.abs(divergences[1]).max() < 1e-6, "a row that is not edited"
    surprises = surprise(model, [PROMPT] * 2, NEW)
    for step, token in enumerate(NEW[0]):
        prefix = [*PROMPT, *NEW[0][:step]]
        plain = _log_probabilities(model, prefix, None, 0)
        steered = _log_probabilities(model, prefix, vector, begin)
        assert divergences[0][step] == pytest.approx(float((steered.exp() * (steered - plain)).sum()), abs=1e-5)
        assert surprises[0][step] == pytest.approx(-float(plain[token]), abs=1e-4)
    assert divergences[0][0] == pytest.approx(0, abs=1e-6) if begin > 3 else divergences[0][0] > 1e-4
    assert divergences[0][2] > 1e-4
    ended = step_divergences(model, books, [edit], PROMPT, [[], []], positions=positions)
    assert [len(row) for row in ended] == [0, 0]


def test_it_edits_the_same_share_of_tokens_as_the_generation_did(model, books):
    """The steered distributions, read again as a whole, are those that the greedy tokens were taken from."""
    edits = [SetCode("a0.h1", 3, rows=[1]), AddCode("m1", 4, 4.0, rows=[1])]
    options = {"positions": "generated", "fraction": 0.5, "seed": 3}
    with attach(model, books, read=False).edit(*edits, **options):
        out = generate(model, torch.tensor([PROMPT] * 2), 12)
    new = out[:, len(PROMPT) :].tolist()
    divergence = step_divergences(model, books, edits, PROMPT, new, **options)
    with attach(model, books, read=False).edit(*edits, **options) as steered:
        generate(model, torch.tensor([PROMPT] * 2), 12)
        marks = steered.edited_positions(2, len(PROMPT) + 12)[1, len(PROMPT) - 1 : -1]
    assert 0 < marks.sum() < len(marks)
    first = int(marks.nonzero()[0])
    assert divergence[1][:first].max(initial=0) < 1e-6 and divergence[1][first] > 1e-4
    assert divergence[0].max() < 1e-6


def test_random_codes_are_others_of_the_same_sites(model, books):
    codes = [WeightedCode(*code) for code in (("a0.h1", 3), ("a0.h1", 4), ("m1", 4, 0.5), ("a1.h2", 5))]
    drawn = random_codes(model, books, codes, seed=1)
    assert [(c.site, c.weight) for c in drawn] == [(c.site, c.weight) for c in codes]
    assert not set(drawn) & set(codes) and len(set(drawn)) == 4
    assert drawn == random_codes(model, books, codes, seed=1) != random_codes(model, books, codes, seed=2)
    for too_many in ([WeightedCode("m1", i) for i in range(8)], [WeightedCode("m0", 1)]):
        with pytest.raises(InputError):
            random_codes(model, books, too_many)


def test_random_codes_of_a_slot_are_of_that_slot(model):
    config = VQConfig(d_in=model.cfg.d_head, groups=model.cfg.n_heads, codes=8, slots=2)
    book = ResidualVQ(config)
    for seed in range(20):
        codes = [WeightedCode("a1.h1", 3), WeightedCode("a1.h1", 10), WeightedCode("a1.h1", 12)]
        drawn = [random_code.code for random_code in random_codes(model, {"a1": book}, codes, seed=seed)]
        assert [code // 8 for code in drawn] == [0, 1, 1] and not {3, 10, 12} & set(drawn)
