"""Codes of every registered bottleneck set while models run and generate."""

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.bottlenecks import NO_CODE, Codes
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import Edit
from interp.errors import InputError
from interp.models import hooked, parse_site
from interp.models.generate import generate
from tests.bottlenecks.conformance import PROMPTS, SHIFT, SITES, watcher


def by_position(ids: Tensor, at: list[int]) -> Tensor:
    return (torch.tensor(at) % 7)[None, :, None].expand_as(ids)


def other_ids(ids: Tensor, n_codes: int) -> Tensor:
    return (ids + 1) % n_codes


def test_with_the_error_term_nothing_changes_until_a_code_is_set(model, fitted):
    before = model(PROMPTS[0])
    with attach(model, fitted, error_term=True) as attached:
        assert torch.equal(model(PROMPTS[0]), before)
        ids = attached.ids["m1"]
        attached.set_ids("m1", ids, values="kept")
        assert torch.equal(model(PROMPTS[0]), before), "setting the codes that are there is no change"
        new = other_ids(ids, fitted["m1"].config.n_codes)
        attached.set_ids("m1", new, values=SHIFT)
        assert not torch.allclose(model(PROMPTS[0]), before, atol=1e-3)
        assert torch.equal(attached.ids["m1"], new)


def test_error_term_passes_on_the_change_of_the_codes_only(model, fitted):
    bottleneck, seen = fitted["r0"], []
    hook = {parse_site("r0").hook: watcher(seen)}
    attached = attach(model, {"r0": bottleneck}, error_term=True)
    attached.set_ids("r0", 3, slot=0, values=SHIFT)
    with hooked(model, hook), attached, hooked(model, hook):
        model(PROMPTS[0])
    x, out = seen
    plain = bottleneck.encode(x)
    edited = Codes(plain.ids.clone(), plain.values.clone())
    edited.ids[..., 0], edited.values[..., 0] = 3, SHIFT
    expected = x + bottleneck.decode(edited) - bottleneck.decode(plain)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("error_term", [False, True])
def test_a_set_code_changes_its_position_and_nothing_before_it(model, fitted, error_term):
    for site in SITES:
        with attach(model, {site: fitted[site]}, error_term=error_term) as attached:
            plain, ids = model(PROMPTS[0]), attached.ids[site]
            new = int(other_ids(ids[0, 6].flatten()[0], fitted[site].config.n_codes))
            attached.set_ids(site, new, positions=6, values=SHIFT)
            changed, after = model(PROMPTS[0]), attached.ids[site]
            assert torch.equal(changed[:, :6], plain[:, :6])
            assert not torch.allclose(changed[:, 6], plain[:, 6], atol=1e-3)
            assert (after[:, 6] == new).all()
            others = [p for p in range(ids.shape[1]) if p != 6]
            assert torch.equal(after[:, :6], ids[:, :6]) and torch.equal(after[:, others], ids[:, others])
            attached.clear_ids(site)
            assert torch.equal(model(PROMPTS[0]), plain)


def test_one_head_and_one_slot_are_set_and_no_other(model, fitted):
    with attach(model, {"a0": fitted["a0"]}) as attached:
        model(PROMPTS[0])
        before = attached.ids["a0"]
        attached.set_ids("a0", 5, positions=slice(3, None), group=1, slot=-1, values=SHIFT)
        model(PROMPTS[0])
        expected = before.clone()
        expected[:, 3:, 1, -1] = 5
        assert torch.equal(attached.ids["a0"], expected)
        assert (attached.codes["a0"].values[:, 3:, 1, -1] == SHIFT).all()


def test_positions_may_be_some_or_a_slice_and_settings_act_in_order(model, fitted):
    with attach(model, {"m1": fitted["m1"]}) as attached:
        model(PROMPTS[0])
        expected = attached.ids["m1"].clone()
        attached.set_ids("m1", 1, positions=[2, 5], values=1.0)
        attached.set_ids("m1", 2, positions=slice(4, 8, 2), values=1.0)
        attached.set_ids("m1", lambda ids, at: ids + len(at), positions=range(4, 6), values=1.0)
        model(PROMPTS[0])
        expected[:, [2, 5]] = 1
        expected[:, [4, 6]] = 2
        expected[:, [4, 5]] += 2
        assert torch.equal(attached.ids["m1"], expected)


def test_emptied_slots_add_nothing(model, fitted):
    with attach(model, {"m1": fitted["m1"]}) as attached, hooked(model, {}):
        attached.set_ids("m1", NO_CODE)
        nothing = model(PROMPTS[0])
        assert (attached.ids["m1"] == NO_CODE).all()
    rest = fitted["m1"].decode(Codes(torch.full((1, 1), NO_CODE), torch.ones(1, 1)))[0]
    with hooked(model, {parse_site("m1").hook: lambda x: torch.zeros_like(x) + rest}):
        assert torch.equal(model(PROMPTS[0]), nothing)


@pytest.mark.parametrize("edited", [False, True], ids=["plain", "set"])
def test_generation_equals_step_by_step_forwards_with_and_without_cache(model, fitted, edited):
    if model.cfg.n_layers > 2 and not edited:
        pytest.skip("takes long, and adds nothing to the other")
    tokens = model.to_tokens(PROMPTS[0])
    n = tokens.shape[1]
    with attach(model, fitted) as attached:
        if edited:
            attached.set_ids("m1", 3, positions=slice(n + 2, None), slot=0, values=SHIFT)
            attached.set_ids("a0", 4, positions=[2, n + 1], group=0, values=SHIFT)
            attached.set_ids("r0", by_position, positions=slice(n, n + 4), values=SHIFT)
        cached = generate(model, tokens, 6)
        cached_ids = attached.ids
        uncached = generate(model, tokens, 6, use_cache=False)
        uncached_ids = attached.ids
        stepwise = tokens
        for _ in range(6):
            stepwise = torch.cat([stepwise, model(stepwise)[:, -1:].argmax(-1)], 1)
        assert torch.equal(uncached[0, n:], stepwise[0, n : uncached.shape[1]])
        assert torch.equal(cached, uncached)
        for site in SITES:
            assert cached_ids[site].shape[1] == cached.shape[1] - 1
            assert torch.equal(cached_ids[site], uncached_ids[site])
        if edited:
            for number in range(n, min(n + 4, cached.shape[1] - 1)):
                assert (cached_ids["r0"][0, number] == number % 7).all()
        assert torch.equal(generate(model, tokens, 2), cached[:, : n + 2]), "the count starts anew"


def test_settings_that_cannot_be_are_refused_at_once(model, fitted):
    attached = attach(model, {"a0": fitted["a0"], "m1": fitted["m1"]})
    n_codes, heads = fitted["m1"].config.n_codes, model.cfg.n_heads
    for arguments, options, message in [
        (("m0", 1), {}, "a0, m1"),
        (("m1", n_codes), {}, f"code id {n_codes}"),
        (("m1", -2), {}, "code id -2"),
        (("m1", torch.tensor([1, 99])), {}, "code id 99"),
        (("m1", torch.tensor([1.0])), {}, "must be integers"),
        (("m1", 1), {"positions": -1}, "position -1"),
        (("m1", 1), {"positions": slice(-3, None)}, "position -3"),
        (("m1", 1), {"positions": slice(0, 9, -1)}, "step -1"),
        (("m1", 1), {"group": 0}, "no groups"),
        (("a0", 1), {"group": heads}, f"0 to {heads - 1}"),
        (("m1", 1), {"slot": 9}, "slot 9"),
    ]:
        with pytest.raises(InputError, match=message):
            attached.set_ids(*arguments, values=1.0, **options)
    if not fitted["m1"].unit_values:
        with pytest.raises(InputError, match="have a strength"):
            attached.set_ids("m1", 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ids", "seven", "code ids 'seven'"),
        ("ids", 1.5, "must be integers"),
        ("positions", 1.5, "positions 1.5"),
        ("values", "kpet", "values 'kpet'"),
    ],
)
def test_what_is_neither_numbers_nor_a_function_is_refused(fitted, field, value, message):
    edit = Edit(1)
    object.__setattr__(edit, field, value)  # tests check types before a constructor is reached
    with pytest.raises(InputError, match=message):
        edit.check(fitted["m1"], grouped=False, n_groups=1)


def test_numbers_of_numpy_and_lists_set_what_numbers_and_tensors_do(model, fitted):
    found = []
    for ids, positions in [(3, 2), (np.int64(3), np.int64(2)), ([3], [np.int64(2)]), (torch.tensor(3), (2,))]:
        with attach(model, {"m1": fitted["m1"]}) as attached:
            attached.set_ids("m1", ids, positions=positions, values=1.0)
            model(PROMPTS[0])
            found.append(attached.ids["m1"].clone())
    assert (found[0][:, 2] == 3).all()
    assert all(torch.equal(ids, found[0]) for ids in found)


def test_strengths_that_are_no_numbers_are_refused(model, fitted):
    with attach(model, {"m1": fitted["m1"]}) as attached:
        for bad in (float("nan"), torch.tensor([1.0, float("inf")])):
            with pytest.raises(InputError, match="they must be finite numbers"):
                attached.set_ids("m1", 1, values=bad)


def test_settings_that_do_not_fit_the_text_are_refused_as_it_runs(model, fitted):
    for ids, message in [
        (torch.zeros(1, 3, 1, dtype=torch.int64), "do not fit"),
        (lambda ids, _: ids[:, :1], "the function gave"),
        (lambda ids, _: ids + 90, "code id"),
    ]:
        with attach(model, {"m1": fitted["m1"]}) as attached, pytest.raises(InputError, match=message):
            attached.set_ids("m1", ids, values=1.0)
            model(PROMPTS[0])
