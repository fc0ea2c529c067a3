"""The contract of every registered bottleneck, alone."""

import json
from dataclasses import replace

import pytest
import torch

from interp.bottlenecks import NO_CODE, Bottleneck, Codes
from interp.bottlenecks.base import BOTTLENECKS, SHIPPED, straight_through
from interp.errors import InputError
from tests.bottlenecks.conformance import CASES, Case, vectors

FILES = ["README.md", "cfg.json", "weights.safetensors"]


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def test_every_registered_bottleneck_is_in_the_suite():
    assert {case.kind for case in CASES.values()} == {*SHIPPED, *BOTTLENECKS}


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


def test_difference_is_that_of_what_is_decoded_and_exactly_zero_where_codes_are_the_same(alone):
    plain = alone.encode(vectors(alone, 12))
    ids, values = plain.ids.clone(), plain.values.clone()
    ids[::2, ..., 0] = (ids[::2, ..., 0] + 1) % alone.config.n_codes
    ids[::4, ..., -1], values[1::4] = NO_CODE, 2 * values[1::4]
    edited = Codes(ids, values)
    difference = alone.difference(edited, plain)
    torch.testing.assert_close(difference, alone.decode(edited) - alone.decode(plain))
    assert not difference[3::4].any() and difference[:3].any()


def test_save_and_load_give_back_the_same_codes_and_vectors(alone, tmp_path):
    alone.save_pretrained(tmp_path / "one")
    loaded = Bottleneck.from_pretrained(tmp_path / "one")
    x = vectors(alone)
    assert type(loaded) is type(alone) and loaded.config == alone.config
    ours, theirs = alone.encode(x), loaded.encode(x)
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.values, theirs.values)
    assert torch.equal(alone.decode(ours), loaded.decode(theirs))
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == FILES
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
    alone.save_pretrained(tmp_path)
    small, x = Bottleneck.from_pretrained(tmp_path).to(torch.bfloat16), vectors(alone, 200)
    same = (small.encode(x).ids == alone.encode(x).ids).all(-1)
    assert same.float().mean() > 0.85
    codes = alone.encode(x)
    torch.testing.assert_close(small.decode(codes).float(), alone.decode(codes), rtol=0.03, atol=0.05)
    small.save_pretrained(tmp_path)
    again = Bottleneck.from_pretrained(tmp_path)
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
        alone.save_pretrained(tmp_path)

    weights, config = tmp_path / "weights.safetensors", tmp_path / "cfg.json"
    saved()
    weights.write_bytes(weights.read_bytes()[:90])
    with pytest.raises(InputError, match="weights.safetensors"):
        Bottleneck.from_pretrained(tmp_path)
    saved()
    stored = json.loads(config.read_text())
    for change in [
        {"format": 99},
        {"kind": "nonsense"},
        {"kind": []},
        {"d_in": 9},
        {"k": "two"},
        {"colour": 1},
    ]:
        config.write_text(json.dumps(stored | change))
        with pytest.raises(InputError):
            Bottleneck.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(InputError, match="cfg.json"):
        Bottleneck.from_pretrained(tmp_path)
    weights.unlink()
    saved()
    weights.unlink()
    with pytest.raises(InputError, match="weights.safetensors"):
        Bottleneck.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        Bottleneck.from_pretrained(tmp_path / "nowhere")


def test_weights_of_another_size_or_with_nan_are_refused(alone, tmp_path):
    other = type(alone)(replace(alone.config, d_in=9))
    other.fit(vectors(other, 60))
    wrong = type(alone).restored(other.config, other.tensors())
    wrong.config = alone.config
    wrong.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="weights"):
        Bottleneck.from_pretrained(tmp_path)
    name, tensor = next(iter(other.tensors().items()))
    with torch.no_grad():
        tensor.view(-1)[0] = float("nan")
    other.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{name} holds NaN"):
        Bottleneck.from_pretrained(tmp_path)
