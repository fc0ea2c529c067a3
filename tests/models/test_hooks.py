"""Hooks change what they are meant to, nothing else, and nobody else's forward."""

import threading

import pytest
import torch

from interp.errors import InputError
from interp.models import hooked, model_lock, parse_site
from interp.models.hooks import as_it_is, hook_point
from tests.tiny_models import FAMILIES

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_restored_bit_for_bit_after_a_hook_and_after_an_exception(family, tiny_model):
    model = tiny_model(family)
    before = model(PROMPT)
    with hooked(model, {"blocks.0.attn.hook_z": torch.zeros_like}):
        assert not torch.equal(model(PROMPT), before)
    assert torch.equal(model(PROMPT), before)

    def fail(_):
        raise RuntimeError("in the hook")

    with pytest.raises(RuntimeError, match="in the hook"), hooked(model, {"blocks.1.hook_resid_post": fail}):
        model(PROMPT)
    assert torch.equal(model(PROMPT), before)
    free = []

    def take():
        free.append(model_lock(model).acquire(timeout=0))
        model_lock(model).release()

    taken = threading.Thread(target=take)
    taken.start()
    taken.join()
    assert free == [True]


def test_two_threads_one_steering_and_one_plain_do_not_interfere(tiny_model):
    model = tiny_model("gpt2")
    direction = 5 * torch.ones(model.cfg.d_model).cumsum(0)
    steer = {"blocks.1.hook_resid_post": lambda x: x + direction}
    tokens = model.to_tokens(PROMPT)
    plain = model(tokens)
    with hooked(model, steer):
        steered = model(tokens)
    wrong = []

    def run(functions, expected):
        for _ in range(40):
            with hooked(model, functions):
                if not torch.equal(model(tokens), expected):
                    wrong.append(functions)

    threads = [threading.Thread(target=run, args=args) for args in ((steer, steered), ({}, plain))]
    for do in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            do(thread)
    assert not wrong


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_what_a_hook_keeps_of_an_mlp_is_on_the_graph(family, tiny_model):
    """Of Granite too, where the point lies beside the forward: the gradient is the slope of a small step there."""
    model, seen = tiny_model(family), []
    before = model(PROMPT)
    step = 1e-2 * torch.randn(model.cfg.d_model)
    hooks = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_(True)}
    with torch.enable_grad(), hooked(model, hooks | {"blocks.0.hook_mlp_out": lambda x: seen.append(x) or x}):
        value = model(PROMPT)[0, -1, 5]
    (gradient,) = torch.autograd.grad(value, seen)
    values = []
    for sign in (1, -1):
        with torch.no_grad(), hooked(model, {"blocks.0.hook_mlp_out": lambda x, s=sign: x + s * step}):
            values.append(model(PROMPT)[0, -1, 5])
    torch.testing.assert_close((gradient[0] @ step).sum(), (values[0] - values[1]) / 2, atol=1e-5, rtol=0.02)
    assert torch.equal(model(PROMPT), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_permanent_hooks_are_part_of_the_model_as_it_is(model):
    """transformer-lens 4 gives OPT some."""
    point = hook_point(model, "blocks.0.hook_mlp_out")
    point.add_hook(lambda tensor, hook: None, is_permanent=True)  # noqa: ARG005 - the library's signature
    try:
        with as_it_is(model, "the test"):
            pass
        nothing = {"blocks.0.hook_mlp_out": lambda _: None}
        with hooked(model, nothing), pytest.raises(InputError), as_it_is(model, "the test"):
            pass
    finally:
        point.remove_hooks(including_permanent=True)


@pytest.mark.parametrize("text", ["", "a", "h3", "a1h3", "a-1", "x2", "a1.h", "a1.h2.3", "blocks.0.attn.hook_q"])
def test_a_malformed_site_names_the_notation(text):
    with pytest.raises(InputError, match="a5.h3"):
        parse_site(text)
