"""Codes of every registered bottleneck edited while models run and generate."""

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import Bottleneck, Codes
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.errors import InputError
from interp.models import hooked, parse_site
from interp.models.generate import generate
from tests.bottlenecks.conformance import PROMPTS, SHIFT, SITES, another, watcher


def setting(fitted: dict[str, Bottleneck], site: str, code: int, **options) -> SetCode:
    """With a strength where codes have one."""
    bottleneck = fitted[site] if site in fitted else fitted[site.partition(".")[0]]
    return SetCode(site, code, strength=None if bottleneck.unit_values else SHIFT, **options)


def test_with_the_error_term_nothing_changes_until_a_code_is_set(model, fitted):
    before = model(PROMPTS[0])
    with attach(model, fitted) as attached:
        assert torch.equal(model(PROMPTS[0]), before)
        new = another(fitted["m1"], int(attached.ids["m1"][0, -1, 0]))
        attached.edit(setting(fitted, "m1", new), positions="all")
        assert not torch.allclose(model(PROMPTS[0])[0, -1], before[0, -1], atol=1e-3)
        assert (attached.ids["m1"][..., 0] == new).all()
        attached.clear()
        assert torch.equal(model(PROMPTS[0]), before)


def test_error_term_passes_on_the_change_of_the_codes_only(model, fitted):
    bottleneck, seen = fitted["r0"], []
    hook = {parse_site("r0").hook: watcher(seen)}
    edit = setting(fitted, "r0", 3)
    with hooked(model, hook), attach(model, {"r0": bottleneck}).edit(edit, positions="all"), hooked(model, hook):
        model(PROMPTS[0])
    x, out = seen
    plain = bottleneck.encode(x)
    edited = Codes(plain.ids.clone(), plain.values.clone())
    slot = bottleneck.slots_of(3)[0]
    edited.ids[..., slot], edited.values[..., slot] = 3, edit.strength or 1.0
    torch.testing.assert_close(out, x + bottleneck.decode(edited) - bottleneck.decode(plain))


@pytest.mark.parametrize("error_term", [False, True])
def test_a_set_code_changes_its_head_and_position_and_nothing_before_it(model, fitted, error_term):
    for site in SITES:
        named = "a0.h1" if site == "a0" else site
        with attach(model, {site: fitted[site]}, error_term=error_term) as attached:
            plain, ids = model(PROMPTS[0]), attached.ids[site]
            head = ids[:, :, 1] if site == "a0" else ids
            new = another(fitted[site], int(head[0, 6, 0]))
            attached.edit(setting(fitted, named, new), positions=6)
            changed, expected = model(PROMPTS[0]), ids.clone()
            (expected[:, :, 1] if site == "a0" else expected)[:, 6, 0] = new
            assert torch.equal(attached.ids[site], expected)
            assert torch.equal(changed[:, :6], plain[:, :6])
            assert not torch.allclose(changed[:, 6], plain[:, 6], atol=1e-3)
            attached.clear(named)
            assert torch.equal(model(PROMPTS[0]), plain)


@pytest.mark.parametrize("edited", [False, True], ids=["plain", "set"])
def test_generation_equals_step_by_step_forwards_with_and_without_cache(model, fitted, edited):
    tokens = model.to_tokens(PROMPTS[0])
    n = tokens.shape[1]
    with attach(model, fitted, error_term=False) as attached:
        if edited:
            attached.edit(setting(fitted, "m1", 3), positions=slice(n + 2, None))
            attached.edit(setting(fitted, "a0.h0", 4), positions=[2, n + 1])
            for number in range(n, n + 4):
                attached.edit(setting(fitted, "r0", number % 7), positions=number)
        cached = generate(model, tokens, 6)
        cached_ids = attached.ids
        uncached = generate(model, tokens, 6, use_cache=False)
        uncached_ids = attached.ids
        stepwise: Tensor = tokens
        for _ in range(6):
            stepwise = torch.cat([stepwise, model(stepwise)[:, -1:].argmax(-1)], 1)
        assert torch.equal(uncached[0, n:], stepwise[0, n : uncached.shape[1]])
        assert torch.equal(cached, uncached)
        for site in SITES:
            assert cached_ids[site].shape[1] == cached.shape[1] - 1
            assert torch.equal(cached_ids[site], uncached_ids[site])
        if edited:
            for number in range(n, min(n + 4, cached.shape[1] - 1)):
                assert number % 7 in cached_ids["r0"][0, number].tolist()
        assert torch.equal(generate(model, tokens, 2), cached[:, : n + 2]), "the count starts anew"


def test_edits_that_cannot_be_are_refused_and_change_nothing(model, fitted):
    attached = attach(model, {"a0": fitted["a0"], "m1": fitted["m1"]})
    n_codes, heads = fitted["m1"].config.n_codes, model.cfg.n_heads
    good = setting(fitted, "m1", 1)
    bad_ones = [SetCode("m0", 1), SetCode("a0", 1), setting(fitted, f"a0.h{heads}", 1)]
    bad_ones += [setting(fitted, "m1", code) for code in (n_codes, -1)] + [setting(fitted, "m1", 1, slots=9)]
    bad_ones += [SetCode("m1", 1, strength=1.0 if fitted["m1"].unit_values else None)]
    for bad in bad_ones:
        with pytest.raises(InputError):
            attached.edit(good, bad)
    for positions in (-1, slice(-3, None), slice(0, 9, -1), "last"):
        with pytest.raises(InputError):
            attached.edit(good, positions=positions)
    before = model(PROMPTS[0])
    with attached:
        assert torch.equal(model(PROMPTS[0]), before)
