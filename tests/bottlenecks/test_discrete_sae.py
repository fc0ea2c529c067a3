"""The discrete SAE: its gradient against autograd, its training against a plain loop, files, errors."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.exceptions import NotFittedError
from torch import Tensor

from interp.bottlenecks.base import Codes
from interp.bottlenecks.discrete_sae import DiscreteSAE, DiscreteSAEConfig, Weights, gradient, tangent
from interp.errors import InputError


def config(**changes) -> DiscreteSAEConfig:
    return DiscreteSAEConfig(**{"d_in": 12, "n_codes": 16, "epochs": 30} | changes)


def loss(weights: Weights, x: Tensor, l1: float) -> Tensor:
    """The published loss, written as the formula reads."""
    active = torch.relu((x - weights.bias) @ weights.encoder.T + weights.encoder_bias)
    restored = active @ weights.decoder.T + weights.bias
    return torch.nn.functional.mse_loss(restored, x) + l1 * active.abs().sum(dim=1).mean()


def random_weights(d_in: int, n_codes: int, bias: float) -> Weights:
    """Float64; the lower ``bias``, the fewer features are active."""
    return Weights(
        torch.nn.functional.normalize(torch.randn(n_codes, d_in, dtype=torch.float64), dim=-1),
        torch.randn(n_codes, dtype=torch.float64) + bias,
        torch.randn(d_in, n_codes, dtype=torch.float64),
        torch.randn(d_in, dtype=torch.float64),
    )


def planted(n_rows: int, d_in: int = 24, n_atoms: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that are each one of a few unit vectors times 2 to 4; returns rows, vectors, which one it was."""
    atoms = torch.nn.functional.normalize(torch.randn(n_atoms, d_in), dim=-1)
    which = torch.arange(n_rows) % n_atoms
    return atoms[which] * (2 + 2 * torch.rand(n_rows, 1)), atoms, which


@pytest.mark.parametrize("bias", [2.0, -1.0, -3.0, -100.0], ids=["dense", "half", "sparse", "nothing"])
def test_gradient_by_hand_is_that_of_autograd(bias):
    weights = Weights(*(part.requires_grad_() for part in random_weights(7, 11, bias)))
    x = torch.randn(13, 7, dtype=torch.float64)
    expected = torch.autograd.grad(loss(weights, x, 0.3), list(weights))
    with torch.no_grad():
        found = gradient(weights, x, x.sum(0), 0.3)
    for name, by_hand, automatic in zip(Weights._fields, found, expected, strict=True):
        torch.testing.assert_close(by_hand, automatic, rtol=1e-10, atol=1e-12, msg=name)
    assert (expected[0] == 0).all() == (bias == -100.0)


@pytest.mark.parametrize("axis", [-1, -2])
def test_tangent_leaves_nothing_along_the_vectors_and_the_rest_as_it_was(axis):
    vectors = torch.nn.functional.normalize(torch.randn(5, 6), dim=axis)
    slope = torch.randn(5, 6)
    flat = tangent(slope, vectors, axis)
    assert (flat * vectors).sum(axis).abs().max() < 1e-6
    torch.testing.assert_close(tangent(flat, vectors, axis), flat)


@pytest.mark.parametrize("decoder_norm", ["coordinate", "atom"])
def test_training_takes_the_steps_of_the_published_loop(decoder_norm):
    """Autograd, a plain Adam, gradients projected by a hook and weights renormalised in each forward pass."""
    x = torch.randn(20, 12)
    settings = config(decoder_norm=decoder_norm, epochs=25, l1=0.01, lr=0.01)
    sae = DiscreteSAE(settings).fit(x)

    start = DiscreteSAE(config(decoder_norm=decoder_norm, epochs=1, l1=0.01, lr=1e-30)).fit(x).weights_
    axis = 1 if decoder_norm == "coordinate" else 0
    parts = [part[0].clone().requires_grad_() for part in start]
    weights = Weights(*parts)
    weights.encoder.register_hook(lambda g: g - (g * weights.encoder).sum(1, keepdim=True) * weights.encoder)
    weights.decoder.register_hook(
        lambda g: g - (g * weights.decoder).sum(axis, keepdim=True) * weights.decoder
    )
    optimizer = torch.optim.Adam(parts, lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        with torch.no_grad():
            torch.nn.functional.normalize(weights.encoder, dim=1, out=weights.encoder)
            torch.nn.functional.normalize(weights.decoder, dim=axis, out=weights.decoder)
        loss(weights, x, 0.01).backward()
        optimizer.step()
    torch.testing.assert_close(sae.weights_.bias[0], weights.bias.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        sae.weights_.decoder[0],
        torch.nn.functional.normalize(weights.decoder.detach(), dim=axis),
        rtol=1e-3,
        atol=1e-4,
    )
    assert (sae.weights_.decoder[0] - start.decoder[0]).abs().max() > 0.05


@pytest.mark.parametrize(("decoder_norm", "axis"), [("coordinate", -1), ("atom", -2)])
def test_encoder_rows_and_the_chosen_decoder_vectors_have_unit_norm(decoder_norm, axis):
    weights = DiscreteSAE(config(decoder_norm=decoder_norm)).fit(torch.randn(40, 12)).weights_
    torch.testing.assert_close(weights.encoder.norm(dim=-1), torch.ones(1, 16))
    norms = weights.decoder.norm(dim=axis)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    other = weights.decoder.norm(dim=-3 - axis)
    assert (other - 1).abs().max() > 0.05


def test_planted_sparse_features_are_restored_better_than_by_a_random_dictionary():
    x, _, _ = planted(240)
    settings = {"d_in": 24, "n_codes": 48, "l1": 0.002, "lr": 0.01, "decoder_norm": "atom"}
    trained = DiscreteSAE(DiscreteSAEConfig(**settings, epochs=500)).fit(x)
    random = DiscreteSAE(DiscreteSAEConfig(**settings, epochs=1)).fit(x)

    def error(sae: DiscreteSAE) -> float:
        return float(((sae.decode(sae.encode(x, k=48)) - x) ** 2).mean() / x.var())

    assert error(trained) < 0.1
    assert error(random) > 5 * error(trained)


def test_code_tells_planted_features_apart():
    x, _, which = planted(240)
    sae = DiscreteSAE(DiscreteSAEConfig(d_in=24, n_codes=96, l1=0.002, lr=0.01)).fit(x)
    ids = sae.encode(x).ids[:, 0]
    for code in ids.unique():
        assert len(which[ids == code].unique()) == 1


def test_code_is_the_first_largest_activation_and_zero_where_nothing_is_active():
    x = torch.randn(50, 12)
    sae = DiscreteSAE(config()).fit(x)
    weights = Weights(*(part[0] for part in sae.weights_))
    weights.encoder_bias.sub_(1.5)
    active = torch.relu((x - weights.bias) @ weights.encoder.T + weights.encoder_bias)
    codes = sae.encode(x)
    assert codes.ids[:, 0].tolist() == [row.index(max(row)) for row in active.tolist()]
    silent = active.sum(1) == 0
    assert silent.any() and not silent.all()
    assert (codes.ids[silent] == 0).all() and (codes.values[silent] == 0).all()


def test_more_codes_begin_with_the_first_and_all_of_them_are_the_whole_reconstruction():
    x = torch.randn(3, 5, 12)
    sae = DiscreteSAE(config()).fit(x)
    one, four, every = (sae.encode(x, k=k) for k in (1, 4, 16))
    assert one.ids.shape == (3, 5, 1) and four.ids.shape == (3, 5, 4)
    assert (four.ids[..., :1] == one.ids).all()
    assert (four.values.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == 16 for row in every.ids.reshape(-1, 16).tolist())
    weights = Weights(*(part[0] for part in sae.weights_))
    active = torch.relu((x - weights.bias) @ weights.encoder.T + weights.encoder_bias)
    torch.testing.assert_close(sae.decode(every), active @ weights.decoder.T + weights.bias)


def test_decode_of_one_code_is_its_atom_times_its_value_plus_the_bias():
    sae = DiscreteSAE(config()).fit(torch.randn(40, 12))
    restored = sae.decode(Codes(torch.tensor([[3]]), torch.tensor([[2.5]])))
    torch.testing.assert_close(restored[0], 2.5 * sae.weights_.decoder[0, :, 3] + sae.weights_.bias[0])


def test_same_seed_same_dictionary_and_another_seed_another():
    x = torch.randn(40, 12)
    first, again, other = (DiscreteSAE(config(seed=seed)).fit(x).weights_ for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.allclose(first.encoder, other.encoder)


def test_groups_trained_together_equal_those_trained_alone():
    x = torch.randn(30, 3, 12)
    together = DiscreteSAE(config(groups=3, seed=5)).fit(x)
    codes = together.encode(x, k=2)
    assert codes.ids.shape == (30, 3, 2)
    for group in range(3):
        alone = DiscreteSAE(config(seed=5 + group)).fit(x[:, group])
        for ours, theirs in zip(together.weights_, alone.weights_, strict=True):
            assert torch.equal(ours[group], theirs[0])
        assert torch.equal(codes.ids[:, group], alone.encode(x[:, group], k=2).ids)
        torch.testing.assert_close(
            together.decode(codes)[:, group], alone.decode(alone.encode(x[:, group], k=2))
        )


def test_selected_groups_encode_as_in_the_whole():
    x = torch.randn(30, 4, 12)
    sae = DiscreteSAE(config(groups=4)).fit(x)
    assert torch.equal(sae.select(slice(1, 3)).encode(x[:, 1:3]).ids, sae.encode(x).ids[:, 1:3])


def test_progress_counts_every_epoch_of_every_group():
    done = []
    DiscreteSAE(config(groups=2, epochs=7)).fit(torch.randn(5, 2, 12), progress=done.append)
    assert sum(done) == 14


def test_saved_dictionary_comes_back_whole(tmp_path):
    x = torch.randn(30, 2, 12)
    sae = DiscreteSAE(config(groups=2, decoder_norm="atom", l1=0.05)).fit(x)
    sae.save_pretrained(tmp_path / "sae")
    loaded = DiscreteSAE.from_pretrained(tmp_path / "sae")
    assert loaded.config == sae.config
    assert torch.equal(loaded.encode(x, k=3).ids, sae.encode(x, k=3).ids)
    assert torch.equal(loaded.decode(loaded.encode(x)), sae.decode(sae.encode(x)))
    assert {path.name for path in (tmp_path / "sae").iterdir()} >= {"cfg.json", "weights.safetensors"}


@pytest.fixture
def saved(tmp_path):
    DiscreteSAE(config()).fit(torch.randn(30, 12)).save_pretrained(tmp_path)
    return tmp_path


def test_damaged_weights_are_an_input_error_that_names_the_file(saved):
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="weights.safetensors"):
        DiscreteSAE.from_pretrained(saved)


def test_weights_of_another_shape_and_metadata_that_is_no_json_are_input_errors(saved):
    path = saved / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        told, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | {"decoder": tensors["decoder"][..., :1].contiguous()}, path, metadata=told)
    with pytest.raises(InputError, match="decoder of shape"):
        DiscreteSAE.from_pretrained(saved)
    save_file(tensors, path, metadata={"config": "{"})
    with pytest.raises(InputError, match="weights.safetensors"):
        DiscreteSAE.from_pretrained(saved)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "codebook"}'])
def test_damaged_or_foreign_configuration_is_an_input_error(saved, text):
    (saved / "cfg.json").write_text(text)
    with pytest.raises(InputError, match="cfg.json"):
        DiscreteSAE.from_pretrained(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("format", 99, "format 99"), ("n_codes", 8, "another configuration"), ("colour", 1, "configuration")],
)
def test_configuration_that_does_not_fit_is_an_input_error(saved, key, value, message):
    stored = json.loads((saved / "cfg.json").read_text())
    (saved / "cfg.json").write_text(json.dumps(stored | {key: value}))
    with pytest.raises(InputError, match=message):
        DiscreteSAE.from_pretrained(saved)


def test_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        DiscreteSAE.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(bad):
    x = torch.randn(30, 12)
    x[3, 4] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        DiscreteSAE(config()).fit(x)


@pytest.mark.parametrize(("shape", "groups"), [((30, 11), 1), ((30, 12), 2), ((30, 3, 12), 2)])
def test_activations_of_another_shape_are_refused(shape, groups):
    with pytest.raises(InputError, match="this dictionary takes"):
        DiscreteSAE(config(groups=groups)).fit(torch.randn(shape))


def test_a_single_row_is_too_few_to_train_on():
    with pytest.raises(InputError, match="at least 2"):
        DiscreteSAE(config()).fit(torch.randn(1, 12))


def test_code_ids_outside_the_dictionary_are_refused():
    sae = DiscreteSAE(config()).fit(torch.randn(30, 12))
    with pytest.raises(InputError, match="0 to 15"):
        sae.decode(Codes(torch.tensor([[16]]), torch.ones(1, 1)))
    with pytest.raises(InputError, match="16 codes"):
        sae.encode(torch.randn(2, 12), k=17)


def test_a_dictionary_that_was_never_fitted_says_so():
    with pytest.raises(NotFittedError):
        DiscreteSAE(config()).encode(torch.randn(2, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": 0}, "d_in 0"),
        ({"n_codes": 0}, "n_codes 0"),
        ({"epochs": -1}, "epochs -1"),
        ({"groups": 0}, "groups 0"),
        ({"l1": -0.1}, "l1 -0.1"),
        ({"l1": float("nan")}, "l1 nan"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_unknown_decoder_norm_is_refused():
    settings = config()
    # set past the constructor, where the tests' type checker would be quicker than our own message
    object.__setattr__(settings, "decoder_norm", "row")
    with pytest.raises(InputError, match="decoder_norm 'row': choose coordinate, atom"):
        settings.__post_init__()
