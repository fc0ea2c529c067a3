"""What defines each kind, on data where the truth is known."""

import itertools

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from interp.bottlenecks import Bottleneck, Codes
from interp.bottlenecks.base import SHIPPED, bits_per_vector, bottleneck_class
from interp.bottlenecks.fit import FitConfig, fit_codebooks, new_config
from interp.bottlenecks.kinds.binary import BSQ, LFQ, Binary, BinaryConfig
from interp.bottlenecks.kinds.gumbel import Gumbel, GumbelConfig, soft_choice
from interp.bottlenecks.kinds.key_value import KeyValue, KeyValueConfig
from interp.bottlenecks.kinds.latent_quantization import (
    FSQ,
    FSQConfig,
    LatentQuantization,
    LatentQuantizationConfig,
    bounded,
)
from interp.bottlenecks.kinds.ternary import Ternary, TernaryConfig, ternary
from interp.bottlenecks.kinds.vq import VQ, FlatConfig, GroupedVQ, Prototypes, ResidualVQ, VQConfig
from interp.errors import InputError
from interp.training import TrainConfig, train_codebooks
from tests.browser.workbench import free_ports


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(book: Bottleneck, x: Tensor) -> float:
    with torch.no_grad():
        return float((x - book.decode(book.encode(x))).square().sum(-1).mean())


SIZED = [
    kind for kind in SHIPPED if hasattr(bottleneck_class(kind).config_class, "at") and kind != "layer_norm_codebook"
]


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("bits", [4, 9, 36])
def test_a_kind_at_a_rate_has_about_so_many_bits_or_says_that_it_cannot(kind, bits):
    cls = bottleneck_class(kind)
    try:
        config = new_config(cls, {"d_in": 48, "groups": 2, "seed": 0}, bits)
    except InputError as refused:
        assert bits > 12 and str(bits) in str(refused)
        return
    assert bits_per_vector(config) == pytest.approx(bits, rel=0.15)
    assert config.d_in == 48 and config.groups == 2


def test_moving_averages_are_those_of_vector_quantize_pytorch():
    from vector_quantize_pytorch import VectorQuantize

    x, later = noise(400, 6), noise(400, 6, seed=1) + 0.3
    ours = VQ(FlatConfig(d_in=6, codes=8)).partial_fit(x)
    theirs = VectorQuantize(dim=6, codebook_size=8, decay=0.99, threshold_ema_dead_code=0, eps=1e-5)
    book = theirs._codebook
    book.initted.fill_(True)
    book.embed.data.copy_(ours.codes)
    book.cluster_size.copy_(ours._size)
    book.embed_avg.copy_(ours._sum)
    theirs.train()
    for batch in (later, x, later):
        _, ids, _ = theirs(batch[None])
        assert torch.equal(ids[0], ours.encode(batch).ids[:, 0].long())
        ours.partial_fit(batch)
        torch.testing.assert_close(ours.codes, book.embed, rtol=1e-4, atol=1e-5)
    assert (ours.codes - VQ(FlatConfig(d_in=6, codes=8)).fit(x).codes).abs().max() > 1e-3, "it moved"


def test_a_code_that_died_is_drawn_anew_from_what_its_slot_stands_for():
    x = noise(300, 4)
    book = ResidualVQ(VQConfig(d_in=4, codes=4, slots=2)).partial_fit(x)
    book._size[0, 5] = 1e-6
    book.codes.data[0, 5] = book._sum[0, 5] = 1e4
    book.partial_fit(x)
    assert book.codes.abs().max() < 10 and book._size[0, 5] == 1


def ema_of_a_share(rank: int, world: int, port: int, folder: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    x, later = noise(200, 4), noise(200, 4, seed=3) + 1
    book = VQ(FlatConfig(d_in=4, codes=8)).partial_fit(x)
    book._size[0, 3] = book._sum[0, 3] = 1e-6  # dies at once
    book.partial_fit(later.chunk(world)[rank])
    torch.save({"codes": book.codes.detach(), "size": book._size}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_counts_sums_and_drawn_codes_of_one(tmp_path):
    [port] = free_ports(1)
    mp.start_processes(ema_of_a_share, (2, port, str(tmp_path)), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = VQ(FlatConfig(d_in=4, codes=8)).partial_fit(noise(200, 4))
    alone._size[0, 3] = alone._sum[0, 3] = 1e-6
    alone.partial_fit(noise(200, 4, seed=3) + 1)
    assert torch.equal(first["codes"], second["codes"])
    torch.testing.assert_close(first["codes"], alone.codes.detach())
    torch.testing.assert_close(first["size"], alone._size)


def test_the_error_falls_with_depth_and_one_stage_is_vq():
    x, held = noise(3000, 8), noise(500, 8, seed=1)
    deep = [error(ResidualVQ(VQConfig(d_in=8, codes=16, slots=n)).fit(x), held) for n in (1, 2, 4)]
    assert deep[0] > 1.2 * deep[1] > 1.44 * deep[2] > 0
    assert deep[0] == pytest.approx(error(VQ(FlatConfig(d_in=8, codes=16)).fit(x), held))


def test_parts_that_vary_independently_are_found_and_coded_apart():
    random = np.random.default_rng(0)
    centres = 6 * noise(2, 4, 4)
    factors = torch.from_numpy(random.integers(4, size=(3000, 2)))
    clean = torch.cat([centres[0][factors[:, 0]], centres[1][factors[:, 1]]], -1)
    turned = torch.linalg.qr(noise(8, 8, seed=5)).Q
    x = clean @ turned + 0.01 * noise(3000, 8, seed=7)
    book = GroupedVQ(VQConfig(d_in=8, codes=16, slots=2)).fit(x)
    assert error(book, x) < 0.02 * float((x - x.mean(0)).square().sum(-1).mean())
    # codes of a part lie in its own half of the space
    parts = book.codes.detach()[0].split(16)
    spans = [torch.linalg.svd(part - part.mean(0)).S for part in parts]
    assert all((span[4:] < 1e-3 * span[0]).all() for span in spans)
    assert (parts[0] @ parts[1].T).abs().max() < 1e-3 * x.square().sum(-1).mean()


def test_hard_codes_are_soft_ones_at_zero_temperature():
    x = 3 * noise(400, 6)
    book = Gumbel(GumbelConfig(d_in=6, codes=8, slots=2, steps=40)).fit(x)
    logits = book.gains(book.comparable(x[None]), book.search_cache()).unflatten(-1, (2, 8))
    soft = [soft_choice(logits, t).flatten(-2) @ book.codes.detach() for t in (1.0, 1e-6)]
    with torch.no_grad():
        hard = book.decode(book.encode(x))[None]
    torch.testing.assert_close(soft[1], hard, rtol=1e-3, atol=1e-3)
    assert (soft[0] - hard).abs().max() > 0.05


def test_independent_factors_are_recovered_by_latent_quantization():
    """As modular as InfoMEC measures it: a latent tells of one factor, and a factor is told by one latent."""
    random = np.random.default_rng(3)
    factors = random.integers(4, size=(4000, 3))
    x = torch.from_numpy(factors - 1.5).float() @ torch.linalg.qr(noise(6, 6)).Q[:3]
    config = LatentQuantizationConfig(d_in=6, latents=3, levels=4, steps=1500, seed=0)
    book = LatentQuantization(config).fit(x)
    ids = book.encode(x).ids.numpy()

    def information(columns) -> np.ndarray:
        return np.array([[normalized_mutual_info_score(c, ids[:, j]) for j in range(3)] for c in columns])

    recovered = information(factors.T)
    best = max(sum(recovered[f, order[f]] for f in range(3)) for order in itertools.permutations(range(3)))
    assert best / 3 > 0.9 and information(map(random.permutation, factors.T)).max() < 0.02
    assert error(book, x) < 0.05 * float(x.square().sum(-1).mean())


@pytest.mark.parametrize("levels", [3, 4, 5, 8])
def test_the_grid_is_that_of_vector_quantize_pytorch(levels):
    from vector_quantize_pytorch import FSQ as Theirs

    z = 3 * noise(200, 3)
    theirs = Theirs([levels] * 3)
    ids = bounded(z, levels).round() + levels // 2
    assert ids.min() == 0 and ids.max() == levels - 1
    torch.testing.assert_close(theirs.bound(z) * (levels // 2), bounded(z, levels).round())
    x = noise(300, 5)
    book = FSQ(FSQConfig(d_in=5, latents=3, levels=levels, steps=20)).fit(x)
    z = x @ book.encoder[0] + book.encoder_bias[0]
    expected = bounded(z, levels).round() + levels // 2 + torch.tensor(book.starts[:-1])
    assert torch.equal(book.encode(x).ids.long(), expected.long())


@pytest.mark.parametrize("cls", [Binary, LFQ, BSQ])
def test_planted_bits_are_found_and_flipping_one_moves_its_direction_alone(cls):
    random = np.random.default_rng(0)
    bits = torch.from_numpy(random.integers(2, size=(4000, 4))).float()
    directions = torch.linalg.qr(noise(8, 8)).Q[:4] * 3
    x = bits @ directions + 0.05 * noise(4000, 8, seed=2)
    book = cls(BinaryConfig(d_in=8, n_bits=4, steps=800)).fit(x)
    codes = book.encode(x)
    digits = (codes.ids - torch.tensor(book.starts[:-1])).numpy()
    right = [[abs(np.corrcoef(bits[:, i], digits[:, j])[0, 1]) for j in range(4)] for i in range(4)]
    assert min(max(row) for row in right) > 0.95
    # set bit 2 of every vector: what is decoded moves by that bit's two codes, whatever the others are
    ids = codes.ids.clone()
    ids[:, 2] = book.starts[2] + torch.from_numpy(1 - digits[:, 2])
    moved = book.difference(Codes(ids, codes.values), codes).detach()
    step = (book.codes[0, book.starts[2] + 1] - book.codes[0, book.starts[2]]).detach()
    signs = torch.from_numpy(1 - 2.0 * digits[:, 2]).float()
    torch.testing.assert_close(moved, signs[:, None] * step)
    assert step.norm() == pytest.approx(3, rel=0.15)


def test_only_the_values_that_are_hit_get_a_gradient_and_keys_none():
    x = noise(200, 6)
    book = KeyValue(KeyValueConfig(d_in=6, codes=16, slots=2, d_key=3)).fit(x)
    codes = book.encode(x[:3])
    book.decode(codes).square().sum().backward()
    touched = book.codes.grad[0].any(-1).nonzero()[:, 0].tolist()
    assert sorted(touched) == sorted(set(codes.ids.flatten().tolist())) and len(touched) < book.config.n_codes
    assert not any(name != "codes" and p.requires_grad for name, p in book.named_parameters())


def test_a_prototype_is_the_vector_of_its_example_and_examples_are_their_own():
    x = noise(500, 2, 6)
    book = Prototypes(FlatConfig(d_in=6, groups=2, codes=20)).fit(x)
    for group in range(2):
        examples = book.examples[group]
        assert len(examples.unique()) == 20
        assert torch.equal(book.codes[group], x[examples, group])
        assert torch.equal(book.encode(x[examples]).ids[:, group, 0].long(), torch.arange(20))
    drawn = Prototypes(FlatConfig(d_in=6, groups=2, codes=20))
    drawn.codes.data.copy_(x[:20].transpose(0, 1))
    assert error(book, x) < 0.95 * error(drawn, x), "each vector is near some prototype"


@pytest.mark.parametrize("scale", ["mean", "median"])
def test_ternary_codes_are_within_their_bound_and_what_bitnet_makes(scale):
    weights = noise(50, 16)
    size = weights.abs().mean(-1) if scale == "mean" else weights.abs().median(-1).values
    ours = ternary(weights, scale)
    rows = zip(weights, size, strict=True)
    expected = torch.stack([length * torch.clamp(torch.round(row / length), -1, 1) for row, length in rows])
    torch.testing.assert_close(ours, expected)
    inside = weights.abs() <= 1.5 * size[:, None]
    assert ((weights - ours).abs() <= size[:, None] / 2 + 1e-6)[inside].all() and inside.any()
    book = Ternary(TernaryConfig(d_in=8, codes=16, slots=2, scale=scale)).fit(noise(600, 8))
    for code in book.codes.detach()[0]:
        assert len(code.abs()[code != 0].unique()) <= 1
    # a step on a code acts on what was rounded: small steps add up
    before = book.codes.detach().clone()
    for _ in range(40):
        book.codes.data += 0.05
        book.constrain()
    assert (book.codes > before).any()
    assert all(len(code.abs()[code != 0].unique()) <= 1 for code in book.codes.detach()[0])


@pytest.mark.parametrize("kind", ["gumbel", "fsq", "key_value", "binary"])
def test_codes_that_do_not_decide_what_is_chosen_are_not_replaced(kind):
    cls = bottleneck_class(kind)
    x = noise(400, 8) ** 3
    book = cls(cls.config_class.at(8, d_in=8)).fit(x)
    before, chosen = book.codes.detach().clone(), book.encode(x).ids
    book.count_text(chosen[None, :2])
    assert (book.counts == 0).any() and book.replace_dead(x, own_length=True) == 0
    assert torch.equal(book.codes, before) and not book.counts.any()
    assert torch.equal(book.encode(x).ids, chosen)


@pytest.mark.parametrize("cls, config", [(LatentQuantization, LatentQuantizationConfig), (FSQ, FSQConfig)])
def test_values_of_a_latent_stay_on_a_line_when_codes_are_trained(cls, config):
    book = cls(config(d_in=6, latents=2, levels=4, steps=20)).fit(noise(300, 6))
    fitted = book.codes.detach().clone()
    book.constrain()
    torch.testing.assert_close(book.codes, fitted, rtol=1e-4, atol=1e-4)
    book.codes.data += 0.1 * noise(1, 8, 6, seed=4)
    book.constrain()
    for part in book.codes.detach()[0].split(4):
        assert (torch.linalg.svd(part - part.mean(0)).S[1:] < 1e-4).all()
    if cls is FSQ:
        steps = book.codes.detach()[0][:4].diff(dim=0)
        torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", SIZED)
def test_vectors_far_from_zero_are_coded_about_their_mean(kind):
    """What all vectors share is in the first slot's codes, and does not count as what a code says."""
    x = noise(400, 6) + 50
    size, cls = {"d_in": 6, "groups": 1, "seed": 0}, bottleneck_class(kind)
    options = {"steps": 300} if hasattr(cls.config_class, "steps") else {}
    book = cls(new_config(cls, size, 6, options)).fit(x)
    assert error(book, x) < float((x - x.mean(0)).square().sum(-1).mean()) * (5 if kind == "ternary" else 1)
    book.count(book.encode(x).ids)
    apart = book.codes.detach() - book.means()
    used = book.counts > 0
    loose = ("ternary", "key_value", "codebook", "metric_codebook")
    assert apart[used].abs().max() < (60 if kind in loose else 12)


def test_sizes_that_cannot_be_are_refused_in_one_line():
    for make in (
        lambda: BinaryConfig(d_in=4, n_bits=0),
        lambda: VQConfig(d_in=4, codes=1),
        lambda: VQConfig(d_in=4, codes=2**22, slots=2),
        lambda: KeyValueConfig(d_in=4, d_key=5),
        lambda: GroupedVQ(VQConfig(d_in=2, codes=2, slots=3)).fit(noise(50, 2)),
        lambda: VQ(FlatConfig(d_in=2, codes=64)).fit(noise(50, 2)),
        lambda: Binary(BinaryConfig(d_in=2, n_bits=2, steps=0)),
        lambda: FitConfig(kind="nonsense"),
        lambda: FitConfig(kind="discrete_sae"),
        lambda: new_config(VQ, {"d_in": 4, "groups": 1, "seed": 0}, options={"colour": 1}),
        lambda: new_config(VQ, {"d_in": 4, "groups": 1, "seed": 0}, options={"codes": "many"}),
    ):
        with pytest.raises(InputError) as refused:
            make()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 250


@pytest.mark.parametrize("kind", ["residual_vq", "fsq", "ternary", "key_value", "gumbel", "prototypes"])
def test_kinds_are_fitted_at_sites_kept_and_trained(kind, tiny_model, tmp_path):
    model = tiny_model("llama")
    text = "\n\n".join(f"Once there was a number {n}, and it was followed by {n + 1}." for n in range(300))
    (tmp_path / "text.txt").write_text(text)
    source, options = str(tmp_path / "text.txt"), {"steps": 20} if kind in ("fsq", "gumbel") else {}
    asked = {"n_tokens": 600, "context": 16, "kind": kind, "bits": 4, "options": options}
    books, again = (fit_codebooks(model, ["a0", "m1"], source, tmp_path / "books", **asked) for _ in range(2))
    assert {book.kind for book in books.values()} == {kind}
    assert all(torch.equal(again[site].codes, books[site].codes) for site in books)
    config = TrainConfig(objective="local", batch_size=8)
    if kind == "prototypes":
        with pytest.raises(InputError, match="prototypes"):
            train_codebooks(model, books, source, tmp_path / "trained", config, n_tokens=600)
        return
    trained = train_codebooks(model, books, source, tmp_path / "trained", config, n_tokens=600)
    assert all(not torch.equal(trained[site].codes, books[site].codes) for site in books)
    if kind == "ternary":
        assert all(len(code.abs()[code != 0].unique()) <= 1 for code in trained["m1"].codes.detach()[0])
