"""The contract of every registered bottleneck, alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from interp.bottlenecks import NO_CODE, Bottleneck, Codebook, Codes, DiscreteSAE
from interp.bottlenecks.base import BOTTLENECKS, SHIPPED, straight_through
from interp.errors import InputError
from tests.bottlenecks.conformance import CASES, Case, another, vectors

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
    for slot in range(alone.config.k):
        assert all(slot in alone.slots_of(code) for code in codes.ids[..., slot].unique().tolist())


def test_leading_axes_are_free_and_rows_do_not_meet(alone):
    x = vectors(alone, 12)
    whole = alone.encode(x)
    shaped = alone.encode(x.unflatten(0, (3, 4)))
    assert torch.equal(shaped.ids.flatten(0, 1), whole.ids)
    for row in range(12):
        assert torch.equal(alone.encode(x[row : row + 1]).ids[0], whole.ids[row])
        vector = alone.decode(Codes(whole.ids[row : row + 1], whole.values[row : row + 1]))
        assert torch.equal(vector[0], alone.decode(whole)[row])


def test_difference_is_that_of_what_is_decoded_and_exactly_zero_where_codes_are_the_same(alone):
    plain = alone.encode(vectors(alone, 12))
    ids, values = plain.ids.clone(), plain.values.clone()
    ids[::2, ..., 0] = ids[::2, ..., 0].clone().apply_(lambda code: another(alone, code))
    ids[::4, ..., -1], values[1::4] = NO_CODE, 2 * values[1::4]
    edited = Codes(ids, values)
    difference = alone.difference(edited, plain)
    torch.testing.assert_close(difference, alone.decode(edited) - alone.decode(plain))
    assert not difference[3::4].any() and difference[:3].any()


def test_bfloat16_vectors_have_the_codes_of_float32_but_for_near_ties(alone):
    x = vectors(alone, 200)
    rounded = x.bfloat16().requires_grad_()
    codes, exact = alone.encode(rounded), alone.encode(rounded.float())
    assert torch.equal(codes.ids, exact.ids)
    assert (codes.ids[..., 0] == alone.encode(x).ids[..., 0]).float().mean() > 0.95
    out = straight_through(rounded, alone.decode(codes))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), alone.decode(exact).float(), rtol=1e-2, atol=1e-2)
    upstream = torch.randn_like(rounded)
    out.backward(upstream)
    assert torch.equal(rounded.grad, upstream), "the gradient goes straight through to the input"


def test_codes_in_bfloat16_stand_for_nearly_the_same_vectors(alone, tmp_path):
    if not isinstance(alone, torch.nn.Module):
        pytest.skip("its weights stay float32")
    alone.save_pretrained(tmp_path)
    small, x = Bottleneck.from_pretrained(tmp_path).to(torch.bfloat16), vectors(alone, 200)
    codes = alone.encode(x)
    assert (small.encode(x).ids == codes.ids).all(-1).float().mean() > 0.85
    torch.testing.assert_close(small.decode(codes).float(), alone.decode(codes), rtol=0.03, atol=0.05)
    small.save_pretrained(tmp_path)
    again = Bottleneck.from_pretrained(tmp_path)
    assert torch.equal(again.encode(x).ids, small.encode(x).ids) and again.codes.dtype == torch.bfloat16


def test_activations_that_are_not_finite_or_of_another_shape_are_refused(alone):
    for bad in (float("nan"), float("inf")):
        x = vectors(alone)
        x.view(-1)[3] = bad
        for refuse in (alone.encode, alone.fit):
            with pytest.raises(InputError, match="NaN or infinite"):
                refuse(x)
    for shape in [(5, 3, 7)] + [(5, 2, 8)] * (alone.config.groups > 1):
        for refuse in (alone.encode, alone.fit):
            with pytest.raises(InputError, match="this dictionary takes"):
                refuse(torch.randn(shape))
    if alone.config.groups > 1:
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
    weights, config = tmp_path / "weights.safetensors", tmp_path / "cfg.json"
    alone.save_pretrained(tmp_path)
    sound, stored = weights.read_bytes(), json.loads(config.read_text())
    changes = [{"format": 99}, {"kind": "nonsense"}, {"kind": []}, {"d_in": 9}, {"k": "two"}, {"colour": 1}]
    for text in ("{", "[]", *(json.dumps(stored | change) for change in changes)):
        config.write_text(text)
        with pytest.raises(InputError):
            Bottleneck.from_pretrained(tmp_path)
    config.write_text(json.dumps(stored))
    tensors, header = load(sound), {"config": json.dumps(stored)}
    name, tensor = next(iter(tensors.items()))
    spoiled = {name: torch.cat([torch.full((1,), float("nan")), tensor.flatten()[1:]]).reshape(tensor.shape)}
    for content in (
        sound[:90],
        save(tensors, {"config": "{"}),
        save(tensors | {name: tensor[..., :-1].contiguous()}, header),
        save({other: value for other, value in tensors.items() if other != name}, header),
        save(tensors | spoiled, header),
    ):
        weights.write_bytes(content)
        with pytest.raises(InputError, match="weights"):
            Bottleneck.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="weights.safetensors"):
        Bottleneck.from_pretrained(tmp_path)


NAME = "someone/codes-of-a5"


def test_what_is_saved_or_pushed_is_read_back_and_a_folder_comes_before_the_hub(alone, hub, tmp_path, monkeypatch):
    other = Codebook if isinstance(alone, DiscreteSAE) else DiscreteSAE
    assert alone.push_to_hub(NAME).startswith("https://")
    assert sorted(path.name for path in (hub / NAME).iterdir()) == FILES
    assert "interp-codes" in (hub / NAME / "README.md").read_text()
    assert json.loads((hub / NAME / "cfg.json").read_text())["format"] == 1
    monkeypatch.chdir(tmp_path)
    alone.save_pretrained("someone/codes")
    x = vectors(alone)
    codes = alone.encode(x)
    for source in (NAME, "someone/codes", tmp_path / "someone" / "codes"):
        for again in (type(alone).from_pretrained(source), Bottleneck.from_pretrained(source)):
            assert type(again) is type(alone) and again.config == alone.config
            coded = again.encode(x)
            assert torch.equal(coded.ids, codes.ids) and torch.equal(coded.values, codes.values)
            assert torch.equal(again.decode(coded), alone.decode(codes))
        with pytest.raises(InputError):
            other.from_pretrained(source)


@pytest.mark.parametrize("source", [Path("no/where"), "nowhere", "./no/where", "a/b/c", "someone/none"])
def test_where_there_is_neither_folder_nor_repository_one_line_says_so(source):
    with pytest.raises(InputError) as error:
        Bottleneck.from_pretrained(source)
    assert str(source) in str(error.value) and "\n" not in str(error.value)
