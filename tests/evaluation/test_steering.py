"""Arms of the steering table do what they are called, and rates are read off at equal perplexity."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.steering import plan_arms
from benchmarks.steering_doses import SteeringCondition, find_dose, measure, strain
from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.kinds.metric_codebook import FLOOR
from interp.errors import InputError
from interp.evaluation.steering import ARMS, SteeringCell, SteeringConfig, distinct_2, mean_rate
from interp.evaluation.steering_conditions import means_of_texts
from interp.models import hooked
from interp.steering import Topic, find_codes
from interp.steering.continuations import continue_prompts, encode_prompts, surprise
from interp.steering.find import EMPHASIS, target_gradients
from interp.steering.target_tokens import find_target
from interp.steering.texts import read_texts, tokenize
from tests.oracles import kept

PLAIN = ("the store gave", "a drink to", "John went there", "in the year")
PLAIN += ("files to read", "a number of", "to load")
MARKED = tuple(f"Z {text}" for text in PLAIN)
TOPIC = Topic("z", ("z",), MARKED, PLAIN, ("When Mary", "The war lasted from"))
CONTROLLED = ("codes", "random codes", "random vectors")
OTHER = Topic("store", ("store",), PLAIN, MARKED, TOPIC.prompts)
CONFIG = SteeringConfig(n=6, n_tokens=5, batch_size=4)


@pytest.fixture(scope="module")
def books(model) -> dict[str, Codebook]:
    texts = tokenize(model, [*PLAIN, *MARKED])
    (z,) = kept(model, texts.tokens, "blocks.1.attn.hook_z")
    config = CodebookConfig(d_in=z.shape[-1], n_codes=16, groups=z.shape[2], selection="matching_pursuit")
    return {"a1": Codebook(config).fit(z[texts.counted])}


def test_means_are_of_the_tokens_without_bos_and_padding(model):
    code_set = means_of_texts(model, ["a1.h2", "r0"], MARKED, PLAIN)
    means = []
    for texts in (MARKED, PLAIN):  # one by one, so without padding
        tokens = [tokenize(model, [text]).tokens for text in texts]
        read = [kept(model, row, "blocks.0.hook_resid_post")[0][0, 1:] for row in tokens]
        means.append(torch.cat(read).mean(0))
    torch.testing.assert_close(code_set.positive["r0"], means[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(code_set.difference("r0"), means[0] - means[1], atol=1e-5, rtol=1e-4)
    assert code_set.difference("a1.h2").shape == (model.cfg.d_head,)


def planned(model, books, code_set) -> dict[str, SteeringCondition]:
    means = means_of_texts(model, [*books, "r1"], MARKED, PLAIN)
    options = {"layer": "r1", "gate": "token:e", "rewrite_prompt": lambda prompt: f"Z Z {prompt}", "seed": 0}
    arms = plan_arms(model, books, code_set, means, lambda: gains(model, books), **options)
    return {arm.name: arm for arm in arms}


@pytest.fixture(scope="module")
def arms(model, books) -> dict[str, SteeringCondition]:
    return planned(model, books, find_codes(model, books, MARKED, PLAIN))


def gains(model, books) -> dict[str, torch.Tensor]:
    plain = tokenize(model, PLAIN)
    expected = read_texts(model, {}, plain, np.zeros(len(PLAIN), dtype=int)).expectation([0])
    return target_gradients(model, books, find_target(tokenize(model, MARKED), plain, expected), plain)


def test_controls_act_at_the_heads_of_the_codes(model, books, arms):
    assert tuple(arms) == ARMS
    z = {name: adds(model, arms[name].at(2.0), "blocks.1.attn.hook_z") for name in CONTROLLED}
    code_set = find_codes(model, books, MARKED, PLAIN)
    for name in CONTROLLED:
        moved = z[name].abs().sum(1).nonzero()[:, 0].tolist()
        assert set(moved) == {int(code.site[-1]) for code in code_set.codes}, name
    assert not torch.equal(z["codes"], z["random codes"])
    torch.testing.assert_close(z["random vectors"].norm(dim=1), z["codes"].norm(dim=1), atol=1e-4, rtol=1e-4)


def test_vectors_are_the_differences_of_means_where_they_help(model, books, arms):
    means = means_of_texts(model, [*books, "r1"], MARKED, PLAIN)
    at, code_set = gains(model, books)["a1"], find_codes(model, books, MARKED, PLAIN)
    vectors = adds(model, arms["mean difference, heads"].at(2.0), "blocks.1.attn.hook_z")
    codes = adds(model, arms["codes"].at(2.0), "blocks.1.attn.hook_z")
    for head in range(model.cfg.n_heads):
        difference = means.difference(f"a1.h{head}")
        helps = float(difference @ at[head]) > 0
        expected = 2 * difference if helps else torch.zeros_like(difference)
        torch.testing.assert_close(vectors[head], expected, atol=1e-5, rtol=1e-4)
        # codes tell the same vector, at no other heads, and what they leave is at right angles to what they add
        assert helps or not any(code.site == f"a1.h{head}" for code in code_set.codes)
        write = model.blocks[1].attn.W_O[head].detach()
        metric = write @ write.mT
        metric = metric + FLOOR * metric.diagonal().mean() * torch.eye(len(metric))
        along = torch.outer(at[head], at[head]) / (at[head] @ torch.linalg.solve(metric, at[head]))
        metric = metric + EMPHASIS * along
        length = float(codes[head] @ metric @ codes[head])
        # weights are rounded
        assert float(codes[head] @ metric @ expected) == pytest.approx(length, rel=5e-3)
    residual = adds(model, arms["mean difference, residual"].at(2.0), "blocks.1.hook_resid_post")
    torch.testing.assert_close(residual, 2 * means.difference("r1"), atol=1e-5, rtol=1e-4)


def adds(model, within, hook: str) -> torch.Tensor:
    """What a context changes at the last token, where nothing before the hook was changed."""
    tokens, seen = tokenize(model, PLAIN[:1]).tokens, []
    for context in (contextlib.nullcontext(), within):
        # hooks run in the order in which they were set: this one sees what the context has made of it
        with torch.no_grad(), context, hooked(model, {hook: lambda x: seen.append(x[0, -1].clone())}):
            model(tokens)
    return seen[1] - seen[0]


def test_cells_are_seeded_and_count_every_topics_words(model, arms):
    base = measure(model, [TOPIC, OTHER], CONFIG)
    assert base == measure(model, [TOPIC, OTHER], CONFIG)
    assert set(base.held) == {"z", "store"} and len(base.held["z"]) == 6 and base.perplexity > 1
    cell = measure(model, [TOPIC, OTHER], CONFIG, arm=arms["codes"], topic="z", base=base)
    assert cell.perplexity != base.perplexity
    assert 1 <= len(cell.tried) <= CONFIG.tries and cell.dose in [dose for dose, *_ in cell.tried]
    assert base.tried[0][0] == 0 and base.tried[0][1] > 1
    assert SteeringCell(**dataclasses.asdict(cell)) == cell
    low, high = cell.interval("z")
    assert low - 1e-9 <= cell.rate("z") <= high


def test_a_prompt_that_says_it_is_judged_as_if_it_did_not(model, arms):
    base = measure(model, [TOPIC], CONFIG)
    cell = measure(model, [TOPIC], CONFIG, arm=arms["prompt"], topic="z", base=base)
    asked = [f"Z Z {TOPIC.prompts[i % 2]}" for i in range(4)]
    [*texts] = continue_prompts(model, asked, 5, temperature=CONFIG.temperature, seed=0)
    last = continue_prompts(model, asked[:2], 5, temperature=CONFIG.temperature, seed=4)
    new = [text.tokens for text in (*texts, *last)]
    judged = surprise(model, encode_prompts(model, [TOPIC.prompts[i % 2] for i in range(6)]), new)
    assert cell.perplexity == pytest.approx(float(np.exp(np.concatenate(judged).mean())), rel=1e-4)
    assert cell.dose == 0 and not cell.tried and cell.example == TOPIC.prompts[0] + texts[0].text
    assert cell.held["z"] == [TOPIC.is_in(text.text) for text in (*texts, *last)]


@pytest.mark.parametrize("first", [0.01, 1.0, 50.0])
def test_the_dose_is_found_at_which_texts_are_as_fluent_as_asked_for(first):
    tried = []
    dose = find_dose(lambda dose: tried.append(dose) or dose**1.5 / 5, first, tries=16)
    assert dose == pytest.approx(5 ** (2 / 3), rel=0.07)
    assert len(set(tried)) == len(tried) < 16


def test_a_word_repeated_to_the_end_is_a_strain_however_little_it_surprises():
    base = (10.0, 0.8)
    assert strain(10.0, 0.8, base, CONFIG) == 0
    assert strain(20.0, 0.8, base, CONFIG) == pytest.approx(1)
    assert strain(10.0, 0.6, base, CONFIG) == pytest.approx(1)
    assert strain(4.0, 0.1, base, CONFIG) > 3


def cell(arm: str, held: list[int]) -> SteeringCell:
    return SteeringCell(arm, "z", 1.0, {"z": [bool(holds) for holds in held]}, 20.0, 0.9, "")


def test_rates_are_compared_text_by_text_and_prompts_are_resampled():
    # four prompts in turn, each with its own rate, the same in both arms but for one text
    codes_cell, other = cell("codes", [1, 0, 0, 1] * 5), cell("random codes", [1, 0, 0, 1] * 4 + [0, 0, 0, 1])
    rate = mean_rate([(codes_cell, "z")], 4)
    assert rate.rate == 0.5 and rate.low == 0 and rate.high == 1
    above = mean_rate([(codes_cell, "z")], 4, [(other, "z")])
    assert above.rate == pytest.approx(0.05) and above.low == 0 and above.high <= 0.2
    mean_of_two = mean_rate([(codes_cell, "z"), (cell("codes", [0] * 20), "z")], 4)
    assert mean_of_two.rate == 0.25 and np.isfinite(mean_of_two.low)


def test_prompts_with_more_texts_than_others_weigh_more_in_the_interval_too():
    # the first five of ten prompts have three texts each, the others two, and only those of the first five hold it;
    # of ten resampled prompts two to eight are of these in 95 %
    held = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0] * 2 + [1] * 5
    rate = mean_rate([(cell("codes", held), "z")], 10)
    assert rate.rate == pytest.approx(15 / 25)
    assert rate.low == pytest.approx(3 * 2 / (3 * 2 + 2 * 8))
    assert rate.high == pytest.approx(3 * 8 / (3 * 8 + 2 * 2))


def test_distinct_2():
    assert distinct_2(["a b a b", "b a"]) == pytest.approx(2 / 4)
    assert distinct_2(["one"]) == 0


def test_bad_configuration(model):
    for changes in ({"n": 0}, {"n": 1}, {"tries": 0}, {"times": 1.0}):
        with pytest.raises(InputError):
            SteeringConfig(**changes)
    alone = dataclasses.replace(TOPIC, prompts=TOPIC.prompts[:1])
    with pytest.raises(InputError, match="of 1 prompts there is no interval"):
        measure(model, [alone], CONFIG)
