"""One suite over every registered bottleneck, on three architectures (and the default model, slow).

A new bottleneck adds a line to ``CASES`` and nothing else.
"""

import json
import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.bottlenecks import (
    BOTTLENECKS,
    NO_CODE,
    Bottleneck,
    Codes,
    load_bottleneck,
)
from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import straight_through
from interp.models import Model, hooked, model_lock, parse_site
from interp.models.generate import generate
from interp.tasks.errors import InputError


@dataclass(frozen=True)
class Case:
    kind: str
    options: dict[str, Any]

    def build(self, d_in: int, groups: int) -> Bottleneck:
        cls = BOTTLENECKS[self.kind]
        return cls(cls.config_class(d_in=d_in, groups=groups, **self.options))


CASES = {
    "codebook": Case("codebook", {"n_codes": 12, "k": 2}),
    "codebook-residual-kept": Case(
        "codebook", {"n_codes": 12, "k": 3, "selection": "residual", "magnitude": "kept"}
    ),
    "discrete-sae": Case(
        "discrete_sae", {"n_codes": 16, "k": 2, "epochs": 60, "lr": 0.02, "l1": 1e-3, "decoder_norm": "atom"}
    ),
}
FAMILIES = ("gpt2", "llama", "gemma2")
SITES = ("a0", "a1.h1", "m1", "r0")
PROMPTS = (
    "When Mary and John went to the store, John gave a drink to",
    "The war lasted from the year 1732 to the year",
    "def load(self, files, code): :param files:",
)
SHIFT = 4.0
"""Strength of the codes that tests set."""


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_model) -> Model:
    return tiny_model(request.param)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def fitted(model, case) -> dict[str, Bottleneck]:
    return fit_all(model, case)


def activations(model: Model) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {site: [] for site in SITES}

    def keep(site: str):
        head = parse_site(site).head
        return lambda x: seen[site].append((x if head is None else x[:, :, head])[0].clone())

    for site in SITES:
        with hooked(model, {parse_site(site).hook: keep(site)}):
            for prompt in PROMPTS:
                model(prompt)
    return {site: torch.cat(rows) for site, rows in seen.items()}


def fit_all(model: Model, case: Case) -> dict[str, Bottleneck]:
    fitted = {}
    for site, rows in activations(model).items():
        fitted[site] = case.build(d_in=rows.shape[-1], groups=rows.shape[1] if rows.ndim == 3 else 1)
        fitted[site].fit(rows)
    return fitted


def vectors(bottleneck: Bottleneck, n: int = 9) -> Tensor:
    groups, d_in = bottleneck.config.groups, bottleneck.config.d_in
    return 2 * torch.randn(n, *([groups] if groups > 1 else []), d_in)


def watcher(seen: list[Tensor]):
    return lambda x: seen.append(x.clone())


def by_position(ids: Tensor, at: list[int]) -> Tensor:
    return (torch.tensor(at) % 7)[None, :, None].expand_as(ids)


def other_ids(ids: Tensor, n_codes: int) -> Tensor:
    return (ids + 1) % n_codes


def test_every_registered_bottleneck_is_in_the_suite():
    assert {case.kind for case in CASES.values()} == set(BOTTLENECKS)


# --- the bottleneck alone


@pytest.fixture(scope="module", params=[1, 3], ids=["one group", "groups"])
def alone(request, case) -> Bottleneck:
    torch.manual_seed(1)
    bottleneck = case.build(d_in=8, groups=request.param)
    return bottleneck.fit(vectors(bottleneck, 60))


def test_encode_and_decode_have_the_contracts_shapes(alone):
    x = vectors(alone)
    codes = alone.encode(x)
    assert codes.ids.shape == codes.values.shape == (*x.shape[:-1], alone.config.k)
    assert codes.ids.dtype == torch.int16
    assert codes.ids.min() >= 0 and codes.ids.max() < alone.config.n_codes
    assert alone.decode(codes).shape == x.shape
    assert not codes.ids.requires_grad and not codes.values.requires_grad
    if alone.unit_values:
        assert (codes.values == 1).all()


def test_leading_axes_are_free_and_rows_do_not_meet(alone):
    x = vectors(alone, 12)
    whole = alone.encode(x)
    shaped = alone.encode(x.unflatten(0, (3, 4)))
    assert torch.equal(shaped.ids.flatten(0, 1), whole.ids)
    for row in range(12):
        assert torch.equal(alone.encode(x[row : row + 1]).ids[0], whole.ids[row])
        one = alone.decode(Codes(whole.ids[row : row + 1], whole.values[row : row + 1]))
        assert torch.equal(one[0], alone.decode(whole)[row])


def test_save_and_load_give_back_the_same_codes_and_vectors(alone, tmp_path):
    alone.save(tmp_path / "one")
    loaded = load_bottleneck(tmp_path / "one")
    x = vectors(alone)
    assert type(loaded) is type(alone) and loaded.config == alone.config
    ours, theirs = alone.encode(x), loaded.encode(x)
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.values, theirs.values)
    assert torch.equal(alone.decode(ours), loaded.decode(theirs))
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["cfg.json", "weights.safetensors"]
    assert json.loads((tmp_path / "one" / "cfg.json").read_text())["format"] == 1


def test_gradient_goes_straight_through_to_the_input(alone):
    x = vectors(alone).requires_grad_()
    decoded = alone.decode(alone.encode(x))
    out = straight_through(x, decoded)
    assert torch.equal(out, decoded)
    upstream = torch.randn_like(x)
    out.backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_gradient_reaches_only_chosen_codes(alone):
    trained = [p for p in alone.parameters() if p.requires_grad]
    if not trained:
        pytest.skip("not trained by gradients from outside")
    x = vectors(alone, 2)
    codes = alone.encode(x)
    (gradient,) = torch.autograd.grad(alone.decode(codes).square().sum(), trained)
    expected = torch.zeros(gradient.shape[:2], dtype=torch.bool)
    for group, chosen in enumerate(codes.ids.reshape(2, alone.config.groups, -1).transpose(0, 1)):
        expected[group, chosen.flatten().long()] = True
    assert torch.equal(gradient.any(-1), expected)


def test_bfloat16_vectors_have_the_codes_of_float32_but_for_near_ties(alone):
    x = vectors(alone, 200)
    rounded = x.bfloat16()
    codes, exact = alone.encode(rounded), alone.encode(rounded.float())
    assert torch.equal(codes.ids, exact.ids)
    assert (codes.ids[..., 0] == alone.encode(x).ids[..., 0]).float().mean() > 0.95
    out = straight_through(rounded, alone.decode(codes))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), alone.decode(exact).float(), rtol=1e-2, atol=1e-2)


def test_codes_in_bfloat16_stand_for_nearly_the_same_vectors(alone, tmp_path):
    if not isinstance(alone, torch.nn.Module):
        pytest.skip("its weights stay float32")
    alone.save(tmp_path)
    small, x = load_bottleneck(tmp_path).to(torch.bfloat16), vectors(alone, 200)
    same = (small.encode(x).ids == alone.encode(x).ids).all(-1)
    assert same.float().mean() > 0.85
    codes = alone.encode(x)
    torch.testing.assert_close(small.decode(codes).float(), alone.decode(codes), rtol=0.03, atol=0.05)
    small.save(tmp_path)
    again = load_bottleneck(tmp_path)
    assert torch.equal(again.encode(x).ids, small.encode(x).ids)
    assert again.codes.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(alone, bad):
    x = vectors(alone)
    x.view(-1)[3] = bad
    for refuse in (alone.encode, alone.fit):
        with pytest.raises(InputError, match="NaN or infinite"):
            refuse(x)


def test_vectors_of_another_shape_are_refused(alone):
    with pytest.raises(InputError, match="this dictionary takes"):
        alone.encode(torch.randn(5, 3, 7))
    if alone.config.groups > 1:
        with pytest.raises(InputError, match="this dictionary takes"):
            alone.encode(torch.randn(5, 2, 8))
        with pytest.raises(InputError, match="expected"):
            alone.decode(Codes(torch.zeros(5, 2, 1, dtype=torch.int16), torch.ones(5, 2, 1)))


@pytest.mark.parametrize("wrong", [-2, 16, 300])
def test_ids_outside_the_dictionary_are_refused_by_value(alone, wrong):
    codes = alone.encode(vectors(alone))
    ids = codes.ids.clone()
    ids[1, ..., 0] = wrong
    with pytest.raises(InputError, match=f"code id {wrong}"):
        alone.decode(Codes(ids, codes.values))


def test_damaged_files_are_input_errors_that_name_the_file(alone, tmp_path):
    def saved() -> None:
        alone.save(tmp_path)

    weights, config = tmp_path / "weights.safetensors", tmp_path / "cfg.json"
    saved()
    weights.write_bytes(weights.read_bytes()[:90])
    with pytest.raises(InputError, match="weights.safetensors"):
        load_bottleneck(tmp_path)
    saved()
    stored = json.loads(config.read_text())
    for change, message in [
        ({"format": 99}, "format 99"),
        ({"kind": "nonsense"}, "nonsense"),
        ({"d_in": 9}, "another configuration"),
        ({"k": "two"}, "configuration"),
        ({"colour": 1}, "configuration"),
    ]:
        config.write_text(json.dumps(stored | change))
        with pytest.raises(InputError, match=message):
            load_bottleneck(tmp_path)
    config.write_text("{")
    with pytest.raises(InputError, match="cfg.json"):
        load_bottleneck(tmp_path)
    weights.unlink()
    saved()
    weights.unlink()
    with pytest.raises(InputError, match="weights.safetensors"):
        load_bottleneck(tmp_path)
    with pytest.raises(InputError, match="cfg.json"):
        load_bottleneck(tmp_path / "nowhere")


def test_weights_of_another_size_or_with_nan_are_refused(alone, tmp_path):
    other = type(alone)(replace(alone.config, d_in=9))
    other.fit(vectors(other, 60))
    wrong = type(alone).restored(other.config, other.tensors())
    wrong.config = alone.config
    wrong.save(tmp_path)
    with pytest.raises(InputError, match="weights"):
        load_bottleneck(tmp_path)
    name, tensor = next(iter(other.tensors().items()))
    with torch.no_grad():
        tensor.view(-1)[0] = float("nan")
    other.save(tmp_path)
    with pytest.raises(InputError, match=f"{name} holds NaN"):
        load_bottleneck(tmp_path)


# --- attached to a model


def test_bottleneck_changes_the_logits_and_detaching_restores_them_bit_for_bit(model, fitted):
    before = model(PROMPTS[0])
    with attach(model, fitted) as attached:
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
        with watch, attach(model, {site: bottleneck}) as attached, again:
            model(PROMPTS[0])
        x, out = seen
        if place.head is not None:
            others = [h for h in range(x.shape[2]) if h != place.head]
            assert torch.equal(out[:, :, others], x[:, :, others])
            x, out = x[:, :, place.head], out[:, :, place.head]
        codes = bottleneck.encode(x)
        assert torch.equal(attached.ids[site], codes.ids)
        assert torch.equal(out, bottleneck.decode(codes))


def test_disabled_sites_equal_the_base_and_enabled_ones_come_back(model, fitted):
    before = model(PROMPTS[0])
    with attach(model, fitted) as attached:
        on = model(PROMPTS[0])
        for site in SITES:
            attached.disable(site)
        assert torch.equal(model(PROMPTS[0]), before)
        assert attached.ids == {}
        attached.enable("m1")
        with attach(model, {}):
            only = model(PROMPTS[0])
        assert set(attached.ids) == {"m1"}
        for site in SITES:
            attached.enable(site)
        assert torch.equal(model(PROMPTS[0]), on)
    with attach(model, {"m1": fitted["m1"]}):
        assert torch.equal(model(PROMPTS[0]), only)


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


def test_codes_of_a_batch_are_those_of_each_prompt_alone(model, fitted):
    tokens = torch.stack([model.to_tokens(prompt)[0, :12] for prompt in PROMPTS])
    with attach(model, fitted) as attached:
        logits, ids = model(tokens), attached.ids
        for row in range(3):
            torch.testing.assert_close(model(tokens[row : row + 1])[0], logits[row], atol=1e-4, rtol=1e-4)
            for site in SITES:
                assert torch.equal(attached.ids[site][0], ids[site][row])


@pytest.mark.parametrize("edited", [False, True], ids=["plain", "set"])
def test_generation_equals_step_by_step_forwards_with_and_without_cache(model, fitted, edited):
    tokens = model.to_tokens(PROMPTS[0])
    n = tokens.shape[1]
    with attach(model, fitted) as attached:
        if edited:
            attached.set_ids("m1", 3, positions=slice(n + 2, None), slot=0, values=SHIFT)
            attached.set_ids("a0", 4, positions=[2, n + 1], group=0, values=SHIFT)
            attached.set_ids("r0", by_position, positions=slice(n, n + 4), values=SHIFT)
        cached = generate(model, tokens, 8)
        cached_ids = attached.ids
        uncached = generate(model, tokens, 8, use_cache=False)
        uncached_ids = attached.ids
        stepwise = tokens
        for _ in range(8):
            stepwise = torch.cat([stepwise, model(stepwise)[:, -1:].argmax(-1)], 1)
        assert torch.equal(uncached[0, n:], stepwise[0, n : uncached.shape[1]])
        assert torch.equal(cached, uncached)
        for site in SITES:
            assert cached_ids[site].shape[1] == cached.shape[1] - 1
            assert torch.equal(cached_ids[site], uncached_ids[site])
        if edited:
            for number in range(n, min(n + 4, cached.shape[1] - 1)):
                assert (cached_ids["r0"][0, number] == number % 7).all()
        assert torch.equal(generate(model, tokens, 8), cached), "the count starts anew"


def test_unequal_prompts_generate_under_codes_as_each_alone(model, fitted):
    with attach(model, {"m1": fitted["m1"], "a0": fitted["a0"]}):
        batch = generate(model, list(PROMPTS[:2]), 6)
        for row, prompt in zip(batch, PROMPTS[:2], strict=True):
            assert torch.equal(row[-6:], generate(model, prompt, 6)[0, -6:])


def test_contexts_nest_and_an_inner_one_sees_what_the_outer_passes_on(model, fitted):
    with attach(model, {"m1": fitted["m1"]}) as outer:
        once = model(PROMPTS[0])
        with attach(model, {"m1": fitted["m1"]}) as inner, attach(model, {"r0": fitted["r0"]}):
            model(PROMPTS[0])
            handed_on = fitted["m1"].decode(outer.codes["m1"])
            assert torch.equal(inner.ids["m1"], fitted["m1"].encode(handed_on).ids)
        assert torch.equal(model(PROMPTS[0]), once)


def test_an_exception_detaches_and_frees_the_lock(model, fitted):
    before = model(PROMPTS[0])

    def fail(*_):
        raise RuntimeError("in the edit")

    with pytest.raises(RuntimeError, match="in the edit"), attach(model, fitted) as attached:
        attached.set_ids("m1", fail, values=1.0)
        model(PROMPTS[0])
    assert torch.equal(model(PROMPTS[0]), before)
    assert lock_is_free(model)


def test_as_an_object_it_attaches_and_detaches_and_holds_the_lock_between(model, fitted):
    before = model(PROMPTS[0])
    attached = attach(model, fitted)
    assert torch.equal(model(PROMPTS[0]), before)
    attached.attach()
    try:
        assert not torch.equal(model(PROMPTS[0]), before)
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
    with attached:
        assert not torch.equal(model(PROMPTS[0]), before)


def test_gradients_reach_codes_and_the_layers_before(model, fitted):
    bottleneck = fitted["m1"]
    if not list(bottleneck.parameters()):
        pytest.skip("not trained by gradients from outside")
    grown = {}

    def start(x):
        grown["x"] = x.detach().requires_grad_()
        return grown["x"]

    with hooked(model, {"blocks.0.hook_resid_pre": start}), attach(model, {"m1": bottleneck}) as attached:
        loss = model(PROMPTS[0], return_type="loss") + attached.loss()
        loss.backward()
        ids = attached.ids["m1"]
    assert grown["x"].grad.abs().sum() > 0
    touched = bottleneck.codes.grad[0].any(-1).nonzero()[:, 0]
    assert set(touched.tolist()) == set(ids.flatten().tolist())
    bottleneck.codes.grad = None
    assert all(p.grad is None for p in model.parameters())


def test_what_does_not_fit_is_refused_with_what_the_model_has(model, case):
    heads, d_head, d_model = model.cfg.n_heads, model.cfg.d_head, model.cfg.d_model
    for site, d_in, groups, message in [
        ("a9", d_head, heads, "a0–a1"),
        ("x1", d_model, 1, "unknown site"),
        ("m7", d_model, 1, "m0–m1"),
        ("a1", d_head, heads + 1, f"{heads} heads of size {d_head}"),
        ("a1", d_head + 1, heads, f"{heads} heads of size {d_head}"),
        ("a1.h0", d_head, heads, f"one head of size {d_head}"),
        ("m1", d_model + 1, 1, f"size {d_model}"),
        ("r0", d_model, 2, f"size {d_model}"),
    ]:
        with pytest.raises(InputError, match=message):
            attach(model, {site: trained(case, d_in, groups)})


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


def test_settings_that_do_not_fit_the_text_are_refused_as_it_runs(model, fitted):
    for ids, message in [
        (torch.zeros(1, 3, 1, dtype=torch.int64), "do not fit"),
        (lambda ids, _: ids[:, :1], "the function gave"),
        (lambda ids, _: ids + 90, "code id"),
    ]:
        with attach(model, {"m1": fitted["m1"]}) as attached, pytest.raises(InputError, match=message):
            attached.set_ids("m1", ids, values=1.0)
            model(PROMPTS[0])


def trained(case: Case, d_in: int, groups: int) -> Bottleneck:
    bottleneck = case.build(d_in, groups)
    return bottleneck.fit(vectors(bottleneck, 20))


def lock_is_free(model: Model) -> bool:
    free = []

    def take() -> None:
        if model_lock(model).acquire(timeout=0):
            model_lock(model).release()
            free.append(True)

    in_thread(take)
    return bool(free)


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
