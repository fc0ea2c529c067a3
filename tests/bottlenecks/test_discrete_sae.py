"""The discrete SAE: its gradient against autograd, its training against a plain loop. Files and errors that all kinds
share are in the conformance suite."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from interp.bottlenecks.kinds.discrete_sae import DiscreteSAE, DiscreteSAEConfig, Weights, gradient


def config(**changes) -> DiscreteSAEConfig:
    return DiscreteSAEConfig(**{"d_in": 12, "n_codes": 16, "epochs": 30} | changes)


def active(weights: Weights, x: Tensor) -> Tensor:
    return torch.relu((x - weights.bias) @ weights.encoder.T + weights.encoder_bias)


def loss(weights: Weights, x: Tensor, l1: float) -> Tensor:
    """The published loss, written as the formula reads."""
    features = active(weights, x)
    return mse_loss(features @ weights.decoder.T + weights.bias, x) + l1 * features.abs().sum(dim=1).mean()


def planted(n_rows: int, d_in: int = 24, n_atoms: int = 12) -> tuple[Tensor, Tensor]:
    """Rows that are each one of a few unit vectors times 2 to 4; returns rows and which one it was."""
    atom = torch.arange(n_rows) % n_atoms
    return normalize(torch.randn(n_atoms, d_in), dim=-1)[atom] * (2 + 2 * torch.rand(n_rows, 1)), atom


@pytest.mark.parametrize("bias", [2.0, -1.0, -3.0, -100.0], ids=["dense", "half", "sparse", "nothing"])
def test_gradient_by_hand_is_that_of_autograd(bias):
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    # the lower the bias, the fewer features are active
    parts = normalize(draw(11, 7), dim=-1), draw(11) + bias, draw(7, 11), draw(7)
    weights, x = Weights(*(part.requires_grad_() for part in parts)), draw(13, 7)
    expected = torch.autograd.grad(loss(weights, x, 0.3), list(weights))
    with torch.no_grad():
        written = gradient(weights, x, x.sum(0), 0.3)
    for name, by_hand, automatic in zip(Weights._fields, written, expected, strict=True):
        torch.testing.assert_close(by_hand, automatic, rtol=1e-10, atol=1e-12, msg=name)
    assert (expected[0] == 0).all() == (bias == -100.0)


@pytest.mark.parametrize("decoder_norm", ["coordinate", "atom"])
def test_training_takes_the_steps_of_the_published_loop(decoder_norm):
    """Autograd, a plain Adam, gradients projected by a hook and weights renormalised in each forward pass."""
    x, settings = torch.randn(20, 12), {"decoder_norm": decoder_norm, "l1": 0.01}
    trained = DiscreteSAE(config(**settings, epochs=25, lr=0.01)).fit(x).weights_
    start = DiscreteSAE(config(**settings, epochs=1, lr=1e-30)).fit(x).weights_
    axis = 1 if decoder_norm == "coordinate" else 0
    parts = [part[0].clone().requires_grad_() for part in start]
    weights = Weights(*parts)
    for vectors, along in ((weights.encoder, 1), (weights.decoder, axis)):
        vectors.register_hook(lambda g, v=vectors, along=along: g - (g * v).sum(along, keepdim=True) * v)
    optimizer = torch.optim.Adam(parts, lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        with torch.no_grad():
            normalize(weights.encoder, dim=1, out=weights.encoder)
            normalize(weights.decoder, dim=axis, out=weights.decoder)
        loss(weights, x, 0.01).backward()
        optimizer.step()
    torch.testing.assert_close(trained.bias[0], weights.bias.detach(), rtol=1e-3, atol=1e-5)
    decoder = normalize(weights.decoder.detach(), dim=axis)
    torch.testing.assert_close(trained.decoder[0], decoder, rtol=1e-3, atol=1e-4)
    assert (trained.decoder[0] - start.decoder[0]).abs().max() > 0.05
    torch.testing.assert_close(trained.encoder.norm(dim=-1), torch.ones(1, 16))
    assert (trained.decoder[0].norm(dim=axis) - 1).abs().max() < 1e-5
    assert (trained.decoder[0].norm(dim=1 - axis) - 1).abs().max() > 0.05


def test_planted_sparse_features_are_told_apart_and_restored_better_than_by_a_random_dictionary():
    x, atom = planted(240)
    settings = {"d_in": 24, "n_codes": 48, "l1": 0.002, "lr": 0.01, "decoder_norm": "atom"}
    trained, random = (DiscreteSAE(DiscreteSAEConfig(**settings, epochs=n)).fit(x) for n in (500, 1))

    def error(sae: DiscreteSAE) -> float:
        return float(((sae.decode(sae.encode(x, k=48)) - x) ** 2).mean() / x.var())

    assert error(trained) < 0.1 and error(random) > 5 * error(trained)
    ids = DiscreteSAE(DiscreteSAEConfig(d_in=24, n_codes=96, l1=0.002, lr=0.01)).fit(x).encode(x).ids[:, 0]
    assert all(len(atom[ids == code].unique()) == 1 for code in ids.unique())


def test_code_is_the_first_largest_activation_and_zero_where_nothing_is_active():
    x = torch.randn(50, 12)
    sae = DiscreteSAE(config()).fit(x)
    weights = Weights(*(part[0] for part in sae.weights_))
    weights.encoder_bias.sub_(1.5)
    features, codes = active(weights, x), sae.encode(x)
    assert codes.ids[:, 0].tolist() == [row.index(max(row)) for row in features.tolist()]
    silent = features.sum(1) == 0
    assert silent.any() and not silent.all()
    assert (codes.ids[silent] == 0).all() and (codes.values[silent] == 0).all()


def test_more_codes_begin_with_the_first_and_all_of_them_are_the_whole_reconstruction():
    x = torch.randn(3, 5, 12)
    sae = DiscreteSAE(config()).fit(x)
    first, four, every = (sae.encode(x, k=k) for k in (1, 4, 16))
    assert first.ids.shape == (3, 5, 1) and four.ids.shape == (3, 5, 4)
    assert (four.ids[..., :1] == first.ids).all() and (four.values.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == 16 for row in every.ids.reshape(-1, 16).tolist())
    weights = Weights(*(part[0] for part in sae.weights_))
    torch.testing.assert_close(sae.decode(every), active(weights, x) @ weights.decoder.T + weights.bias)


def test_groups_trained_together_equal_those_trained_alone_each_with_a_seed_of_its_own():
    x = torch.randn(30, 3, 12)
    together = DiscreteSAE(config(groups=3, seed=5)).fit(x)
    codes = together.encode(x, k=2)
    for group in range(3):
        alone = DiscreteSAE(config(seed=5 + group)).fit(x[:, group])
        for ours, theirs in zip(together.weights_, alone.weights_, strict=True):
            assert torch.equal(ours[group], theirs[0])
        coded = alone.encode(x[:, group], k=2)
        assert torch.equal(codes.ids[:, group], coded.ids)
        torch.testing.assert_close(together.decode(codes)[:, group], alone.decode(coded))
        assert torch.equal(together.select(slice(group, group + 1)).encode(x[:, group], k=2).ids, coded.ids)
    encoder = together.weights_.encoder
    assert not torch.allclose(encoder[0], encoder[1])
