"""Every registered bottleneck attached to models: what passes, what is restored, who may run."""

import threading

import pytest
import torch
from torch import Tensor

from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.errors import InputError
from interp.models import Model, hooked, model_lock, parse_site
from interp.models.generate import generate
from tests.bottlenecks.conformance import CASES, PROMPTS, SITES, fit_all, trained, watcher


def test_bottleneck_changes_the_logits_and_detaching_restores_them_bit_for_bit(model, fitted):
    before = model(PROMPTS[0])
    with attach(model, fitted, error_term=False) as attached:
        during = model(PROMPTS[0])
    assert not torch.equal(during, before)
    assert torch.equal(model(PROMPTS[0]), before)
    assert set(attached.ids) == set(SITES), "can be read after detaching"


def test_each_site_passes_on_what_its_codes_stand_for(model, fitted):
    for site, bottleneck in fitted.items():
        seen: list[Tensor] = []
        place = parse_site(site)
        watch = hooked(model, {place.hook: watcher(seen)})
        again = hooked(model, {place.hook: watcher(seen)})
        with watch, attach(model, {site: bottleneck}, error_term=False) as attached, again:
            model(PROMPTS[0])
        x, out = seen
        if place.head is not None:
            others = [h for h in range(x.shape[2]) if h != place.head]
            assert torch.equal(out[:, :, others], x[:, :, others])
            x, out = x[:, :, place.head], out[:, :, place.head]
        codes = bottleneck.encode(x)
        assert torch.equal(attached.ids[site], codes.ids)
        assert torch.equal(out, bottleneck.decode(codes))


def test_codes_of_a_batch_are_those_of_each_prompt_alone(model, fitted):
    tokens = torch.stack([model.to_tokens(prompt)[0, :12] for prompt in PROMPTS])
    with attach(model, fitted, error_term=False) as attached:
        logits, ids = model(tokens), attached.ids
        for row in range(3):
            torch.testing.assert_close(model(tokens[row : row + 1])[0], logits[row], atol=3e-4, rtol=1e-4)
            for site in SITES:
                assert torch.equal(attached.ids[site][0], ids[site][row])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codebook", "residual-vq", "fsq", "bsq", "key-value", "discrete-sae"])
def test_one_kind_of_each_form_at_the_default_model(smollm2, name):
    fitted = fit_all(smollm2, CASES[name])
    test_bottleneck_changes_the_logits_and_detaching_restores_them_bit_for_bit(smollm2, fitted)
    test_each_site_passes_on_what_its_codes_stand_for(smollm2, fitted)


def test_unequal_prompts_generate_under_codes_as_each_alone(model, fitted):
    with attach(model, {"m1": fitted["m1"], "a0": fitted["a0"]}, error_term=False):
        batch = generate(model, list(PROMPTS[:2]), 6, return_type="tokens")
        for row, prompt in zip(batch, PROMPTS[:2], strict=True):
            assert torch.equal(row[-6:], generate(model, prompt, 6, return_type="tokens")[0, -6:])


def test_contexts_nest_and_an_inner_one_sees_what_the_outer_passes_on(model, fitted):
    with attach(model, {"m1": fitted["m1"]}, error_term=False) as outer:
        once = model(PROMPTS[0])
        with (
            attach(model, {"m1": fitted["m1"]}, error_term=False) as inner,
            attach(model, {"r0": fitted["r0"]}, error_term=False),
        ):
            model(PROMPTS[0])
            handed_on = fitted["m1"].decode(outer.codes["m1"])
            assert torch.equal(inner.ids["m1"], fitted["m1"].encode(handed_on).ids)
        assert torch.equal(model(PROMPTS[0]), once)


def test_an_exception_detaches_and_frees_the_lock(model, fitted):
    before = model(PROMPTS[0])

    edit = SetCode("m1", 1, strength=None if fitted["m1"].unit_values else 1.0, rows=[7])
    with pytest.raises(InputError), attach(model, fitted).edit(edit, positions="all"):
        model(PROMPTS[0])
    assert torch.equal(model(PROMPTS[0]), before)
    assert lock_is_free(model)


def test_as_an_object_it_attaches_and_detaches_and_holds_the_lock_between(model, fitted):
    before = model(PROMPTS[0])
    attached = attach(model, fitted, error_term=False)
    assert torch.equal(model(PROMPTS[0]), before)
    attached.attach()
    try:
        assert not lock_is_free(model)
        with pytest.raises(RuntimeError, match="already"):
            attached.attach()
        in_thread(lambda: pytest.raises(RuntimeError, attached.detach))
        assert not torch.equal(model(PROMPTS[0]), before)
    finally:
        attached.detach()
    assert torch.equal(model(PROMPTS[0]), before) and lock_is_free(model)
    with pytest.raises(RuntimeError, match="not attached"):
        attached.detach()


def test_gradients_reach_codes_and_the_layers_before(model, fitted):
    bottleneck = fitted["m1"]
    if not any(parameter.requires_grad for parameter in bottleneck.parameters()):
        pytest.skip("not trained by gradients from outside")
    grown = {}

    def start(x):
        grown["x"] = x.detach().requires_grad_()
        return grown["x"]

    with (
        hooked(model, {"blocks.0.hook_resid_pre": start}),
        attach(model, {"m1": bottleneck}, error_term=False) as attached,
    ):
        loss = model(PROMPTS[0], return_type="loss") + attached.loss()
        loss.backward()
        ids = attached.ids["m1"]
    assert grown["x"].grad.abs().sum() > 0
    touched = bottleneck.codes.grad[0].any(-1).nonzero()[:, 0]
    # what is last predicts nothing, and may be what its code stands for
    assert set(ids[:, :-1].flatten().tolist()) <= set(touched.tolist()) <= set(ids.flatten().tolist())
    bottleneck.codes.grad = None
    assert all(p.grad is None for p in model.parameters())


def test_what_does_not_fit_is_refused_with_what_the_model_has(model, case):
    heads, d_head, d_model = model.cfg.n_heads, model.cfg.d_head, model.cfg.d_model
    last = model.cfg.n_layers - 1
    for site, d_in, groups, message in [
        ("a99", d_head, heads, f"a0–a{last}"),
        ("x1", d_model, 1, "unknown site"),
        ("m99", d_model, 1, f"m0–m{last}"),
        ("a1", d_head, heads + 1, f"{heads} heads of size {d_head}"),
        ("a1", d_head + 1, heads, f"{heads} heads of size {d_head}"),
        ("a1.h0", d_head, heads, f"one head of size {d_head}"),
        ("m1", d_model + 1, 1, f"size {d_model}"),
        ("r0", d_model, 2, f"size {d_model}"),
    ]:
        with pytest.raises(InputError, match=message):
            attach(model, {site: trained(case, d_in, groups)}, error_term=False)


def lock_is_free(model: Model) -> bool:
    taken = []

    def take() -> None:
        taken.append(model_lock(model).acquire(timeout=0))
        if taken[0]:
            model_lock(model).release()

    in_thread(take)
    return taken[0]


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
