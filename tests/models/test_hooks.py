"""Hooks change what they are meant to, nothing else, and nobody else's forward."""

import threading

import pytest
import torch

from interp.errors import InputError
from interp.models import hook_point, hooked, model_lock, parse_site, resolve_site
from tests.oracles import kept
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


def test_nested_contexts_remove_only_their_own_hook_and_an_unknown_one_leaves_none_behind(tiny_model):
    model, point = tiny_model("llama"), "blocks.0.hook_resid_post"
    before = model(PROMPT)
    with hooked(model, {point: lambda x: x + 1}):
        once = model(PROMPT)
        with hooked(model, {point: lambda x: 2 * x}):
            assert not torch.equal(model(PROMPT), once)
        assert torch.equal(model(PROMPT), once)
    functions = {point: torch.neg, "blocks.0.nonsense": torch.neg}
    with pytest.raises(InputError, match="'blocks.0.nonsense'"), hooked(model, functions):
        pass
    assert torch.equal(model(PROMPT), before)
    with pytest.raises(InputError, match="no hook 'blocks.2.attn.hook_z'"):
        hook_point(model, "blocks.2.attn.hook_z")


def test_hooks_see_each_head_and_change_only_the_one_they_edit(tiny_model):
    model, point = tiny_model("llama"), "blocks.1.attn.hook_z"
    tokens = model.to_tokens(PROMPT)

    def edit(z):
        z = z.clone()
        z[:, :, 1] = 0
        return z

    (plain,), (edited,) = kept(model, tokens, point), kept(model, tokens, point, hooks={point: edit})
    assert edited.shape[2:] == (4, 6) and plain[:, :, 1].any() and not edited[:, :, 1].any()
    others = [0, 2, 3]
    assert torch.equal(edited[:, :, others], plain[:, :, others])


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["a1.h0", "a0", "m1", "r0"])
def test_sites_are_resolved_to_hooks_that_fire(family, text, tiny_model):
    model = tiny_model(family)
    site = resolve_site(model, text)
    assert str(site) == text
    assert parse_site(str(site)) == site
    shapes = []
    with hooked(model, {site.hook: lambda x: shapes.append(x.shape)}):
        model(PROMPT)
    length = model.to_tokens(PROMPT).shape[1]
    inner = (model.cfg.n_heads, model.cfg.d_head) if site.kind == "attn" else (model.cfg.d_model,)
    assert shapes == [(1, length, *inner)]


@pytest.mark.parametrize("text", ["a2", "a0.h9", "m2", "r7"])
def test_an_absent_site_names_the_sites_there_are(text, tiny_model):
    with pytest.raises(InputError, match=r"a0–a1 \(heads h0–h3\), m0–m1, r0–r1"):
        resolve_site(tiny_model("llama"), text)


@pytest.mark.parametrize(
    "text", ["", "a", "h3", "a1h3", "a-1", "x2", "a1.h", "a1.h2.3", "blocks.0.attn.hook_q"]
)
def test_a_malformed_site_names_the_notation(text):
    with pytest.raises(InputError, match="a5.h3"):
        parse_site(text)
