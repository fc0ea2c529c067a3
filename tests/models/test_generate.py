"""Generation: the KV cache, batching and padding change nothing.

transformers 5.24 renamed the argument through which the bridge receives its cache: greedy decoding with it
then attends to one token only, without an error. These tests are what notices.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.errors import InputError
from interp.models import hooked
from interp.models.generate import generate
from tests.tiny_models import FAMILIES

PROMPT = "When Mary and John went to the store, John gave a drink to"
SHORT = "The war lasted from the year 1732"


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_the_same_with_and_without_cache_and_in_hugging_face(family, tiny_model, tiny_model_folder):
    model, folder = tiny_model(family), tiny_model_folder(family)
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = model.to_tokens(PROMPT)
    expected = reference.generate(tokens, max_new_tokens=20, do_sample=False)
    for use_cache in (True, False):
        assert torch.equal(generate(model, tokens, 20, use_cache=use_cache), expected)
    assert expected[0, tokens.shape[1] :].unique().numel() > 4, "a degenerate continuation would prove nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_beside_longer_ones_and_behind_padding_continue_as_alone(family, tiny_model):
    model = tiny_model(family)
    tokens = model.to_tokens(SHORT)
    alone = [generate(model, prompt, 12, return_type="tokens")[0, -12:] for prompt in (PROMPT, SHORT)]
    for use_cache in (True, False):
        batch = generate(model, [PROMPT, SHORT], 12, use_cache=use_cache, return_type="tokens")
        assert torch.equal(batch[:, -12:], torch.stack(alone))
    pads = torch.full((1, 3), model.tokenizer.pad_token_id)
    mask = torch.cat([torch.zeros_like(pads), torch.ones_like(tokens)], 1)
    continued = generate(model, torch.cat([pads, tokens], 1), 12, attention_mask=mask)
    assert torch.equal(continued[0, -12:], alone[1])


def test_sampling_depends_on_the_seed_alone_and_leaves_the_callers_generator(model):
    before = torch.random.get_rng_state()
    first = generate(model, PROMPT, 12, seed=1, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert generate(model, PROMPT, 12, seed=1, temperature=1.0) == first
    assert generate(model, PROMPT, 12, seed=2, temperature=1.0) != first


def test_watching_sees_every_step_changes_nothing_and_can_end_it(tiny_model):
    model, seen = tiny_model("llama"), []
    prompt = torch.tensor([[5, 9, 17], [5, 9, 17]])
    plain = generate(model, prompt, 6, seed=3, temperature=1.0)
    watched = generate(model, prompt, 6, seed=3, temperature=1.0, watch=lambda t: seen.append(t.tolist()))
    assert torch.equal(watched, plain)
    assert [len(tokens[0]) for tokens in seen] == list(range(4, plain.shape[1] + 1))
    assert seen[-1] == plain.tolist()

    def stop(_tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hooked(model, {"blocks.0.attn.hook_z": lambda z: z * 0}):
        generate(model, prompt, 6, watch=stop)
    assert torch.equal(generate(model, prompt, 6, seed=3, temperature=1.0), plain)


NONE = torch.ones(0, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("prompts", "new", "temperature"),
    [(PROMPT, 0, 0.0), (PROMPT, -1, 0.0), (PROMPT, 5, -0.1), *((none, 2, 0.0) for none in ([], NONE, ["a", ""]))],
)
def test_impossible_requests_are_refused(prompts, new, temperature, tiny_model):
    with pytest.raises(InputError):  # Qwen2 has no token that stands before an empty prompt
        generate(tiny_model("qwen2"), prompts, new, temperature=temperature)


def test_more_than_the_context_is_refused(model):
    tokens = torch.ones(1, model.cfg.n_ctx - 2, dtype=torch.long)
    assert generate(model, tokens, 2).shape[1] == model.cfg.n_ctx
    with pytest.raises(InputError, match="tokens of prompt and 3 new ones: the model reads"):
        generate(model, tokens, 3)
    text = "Mary went to the store. " * model.cfg.n_ctx
    n_tokens = len(model.tokenizer(text, verbose=False).input_ids)
    assert n_tokens > 2 * model.cfg.n_ctx
    with pytest.raises(InputError, match=f"^{n_tokens} tokens of prompt and 3 new ones: the model reads"):
        generate(model, [text], 3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_a_generation_with_a_line(temperature, model):
    plain = generate(model, PROMPT, 3, seed=1, temperature=temperature)
    with (
        pytest.raises(InputError, match="logits are NaN or infinite in torch.float32"),
        hooked(model, {"blocks.1.hook_mlp_out": lambda x: x * float("inf")}),
    ):
        generate(model, PROMPT, 3, temperature=temperature)
    assert generate(model, PROMPT, 3, seed=1, temperature=temperature) == plain
