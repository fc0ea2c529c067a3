"""One pass: right metrics, right gradients, every pair once, no hook left behind."""

import pytest
import torch

from interp.activations.means import HeadMeans
from interp.activations.metric import task_metric
from interp.activations.stream import MetricConsumer, answer_logits, end_logits, equal_length_batches, feed, run_batch
from interp.errors import InputError
from interp.prompts.pairs import PromptPair
from interp.scores.registry import METHODS, load_method
from tests.pairs import random_pairs
from tests.tiny_models import FAMILIES, OTHERS


def _pair(answers, wrong):
    return PromptPair("", "", (1,), (1,), answers, wrong)


def test_metrics_equal_hand_calculation():
    logits = torch.tensor([[1.0, 2.0, 4.0, 0.0], [0.0, 3.0, 1.0, 5.0]])
    pairs = [_pair((2,), (0, 1)), _pair((1, 3), (0,))]
    torch.testing.assert_close(task_metric(logits, pairs, "logit_diff"), torch.tensor([4 - 1.5, 4.0 - 0]))
    torch.testing.assert_close(task_metric(logits, pairs, "logit_diff_max"), torch.tensor([2.0, 4.0]))
    p = logits.softmax(-1)
    wanted = torch.stack([p[0, 2] - p[0, 0] - p[0, 1], p[1, 1] + p[1, 3] - p[1, 0]])
    torch.testing.assert_close(task_metric(logits, pairs, "prob_diff"), wanted)


def test_batches_hold_one_length_and_every_pair_once():
    pairs = random_pairs(50, n=11, lengths=(5, 8, 6))
    batches = list(equal_length_batches(pairs, 3))
    assert sorted(i for batch in batches for i in batch) == list(range(11))
    for batch in batches:
        assert len(batch) <= 3
        assert len({len(pairs[i].clean_tokens) for i in batch}) == 1
    with pytest.raises(InputError, match="batch size 0"):
        list(equal_length_batches(pairs, 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_end_logits_and_gradients_are_those_of_the_whole_and_of_finite_differences(family, tiny_model):
    model, tokens = tiny_model(family), torch.randint(3, 60, (3, 9))
    with torch.no_grad():
        torch.testing.assert_close(end_logits(model, tokens), model(tokens)[:, -1], rtol=1e-5, atol=1e-5)
    pairs = random_pairs(60, n=2)
    batch = run_batch(model, pairs, (0, 1), gradients=True)
    for layer in range(model.cfg.n_layers):
        direction = torch.randn_like(batch.clean.z[layer])
        predicted = (batch.z_gradient[layer] * direction).sum((1, 2, 3))
        step = 1e-2

        def moved(sign, layer=layer, direction=direction, step=step):
            hooks = {f"blocks.{layer}.attn.hook_z": lambda z: z + sign * step * direction}
            with torch.no_grad():
                return task_metric(end_logits(model, batch.clean.tokens, hooks), pairs, "logit_diff")

        measured = (moved(1) - moved(-1)) / (2 * step)
        torch.testing.assert_close(predicted, measured, rtol=0.05, atol=0.05 * measured.abs().max().item())


@pytest.mark.parametrize("family", (*FAMILIES, *OTHERS))
def test_answer_logits_are_the_models_own_and_its_unembedding_is_whole_afterwards(family, tiny_model):
    model, pairs = tiny_model(family), random_pairs(60, n=3)
    tokens = torch.tensor([pair.clean_tokens for pair in pairs])
    read = {token for pair in pairs for token in (*pair.answers, *pair.wrong_answers)}
    with torch.no_grad():
        whole = model(tokens)[:, -1]
        answer = answer_logits(model, tokens, pairs, "logit_diff_max")
        with pytest.raises(ZeroDivisionError):
            answer_logits(model, tokens, pairs, "logit_diff", {"blocks.0.hook_resid_pre": lambda _: 1 / 0})
        torch.testing.assert_close(answer_logits(model, tokens, pairs, "prob_diff"), whole)
    torch.testing.assert_close(answer[:, sorted(read)], whole[:, sorted(read)])
    assert torch.isinf(answer).sum() == len(pairs) * (model.cfg.d_vocab - len(read))


def test_feeding_in_small_batches_equals_one_batch_and_leaves_no_hook(model):
    pairs = random_pairs(60, n=7, lengths=(7, 9))
    small, large = MetricConsumer(7), MetricConsumer(7)
    done = []
    assert feed(model, pairs, [small], batch_size=2, progress=done.append) == 14
    feed(model, pairs, [large], batch_size=16)
    assert sum(done) == 7
    assert abs(small.metric_ - large.metric_).max() < 1e-4
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("random", "layer-index")])
def test_prompts_beyond_the_context_are_refused_by_every_method(tiny_model, method):
    model = tiny_model("gpt2")
    pairs = random_pairs(60, n=2, lengths=(model.cfg.n_ctx + 1,))
    with pytest.raises(InputError, match=f"the model reads at most {model.cfg.n_ctx}"):
        load_method(method)(model, pairs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused_wherever_they_come_from(bad):
    """A patch that overflows would else count as no effect, and be found only when the result is written."""
    pairs, logits = [_pair((0,), (1,)), _pair((2,), (3,))], torch.zeros(2, 4)
    assert task_metric(logits, pairs, "logit_diff").tolist() == [0, 0]
    logits[1] = bad
    with pytest.raises(InputError, match="NaN or infinite logits"):
        task_metric(logits, pairs, "logit_diff")


def test_means_begin_at_the_position_asked_for(tiny_model):
    model, pairs = tiny_model("gpt2"), random_pairs(60, n=2)
    means = HeadMeans(pairs, first=1)
    feed(model, pairs, [means])
    _, cache = model.run_with_cache(torch.tensor([pairs[1].corrupt_tokens]))
    expected = cache["blocks.1.attn.hook_z"][0, 1:].mean(0)
    torch.testing.assert_close(means.z_[1, 1, 0, 1], expected, atol=1e-5, rtol=1e-4)
