"""Rates: coders of known length, and a coder that keeps everything costs nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from benchmarks.coders import Coordinates
from benchmarks.rates import RateBench, RateConfig, code_lengths, measure_rates, plot
from interp.errors import InputError

KEPT = Path(__file__).parents[2] / "benchmarks/results/rates/smollm2-135m-instruct/rates.json"


def chain(n: int, size: int, stay: float, seed: int) -> torch.Tensor:
    """Codes of a chain that stays with a chance and is drawn evenly otherwise."""
    random = np.random.default_rng(seed)
    ids = [0]
    for _ in range(n - 1):
        ids.append(ids[-1] if random.random() < stay else int(random.integers(size)))
    return torch.tensor(ids)[:, None, None]


def test_code_lengths_are_the_entropies_of_a_known_chain():
    size, stay = 8, 0.75
    lengths = code_lengths(chain(40_000, size, stay, 0), chain(4_000, size, stay, 1), (size,), 100)
    shares = np.full(size, (1 - stay) / size)
    shares[0] += stay
    given_before = float(-(shares * np.log2(shares)).sum())
    assert lengths["bits_unigram"] == pytest.approx(3, abs=0.02)
    assert lengths["bits_entropy"] == pytest.approx(3, abs=0.01)
    assert lengths["bits_bigram"] == pytest.approx(given_before, rel=0.03)
    assert given_before < 1.1 * lengths["bits_zstd"] < 3 and lengths["dead"] == 0
    unused = code_lengths(chain(500, 4, 0.0, 0), chain(500, 4, 0.0, 1), (16,), 100)
    assert unused["dead"] == 0.75


def test_coordinates_keep_their_own_subspace():
    x = torch.randn(500, 2, 3) @ torch.randn(3, 8) + 5
    whole = Coordinates(48, 8, 16)
    whole.fit(x)
    torch.testing.assert_close(whole.coded(x)[1], x, rtol=1e-3, atol=1e-3)
    few = Coordinates(12, 8, 4)
    few.fit(x)
    ids, decoded = few.coded(x)
    assert few.bits == 12 and ids.shape == (500, 2, 3) and int(ids.max()) == 15
    assert 0 < (decoded - x).square().mean() < 0.02 * x.var()
    with pytest.raises(InputError, match="9 bits"):
        Coordinates(9, 8, 16)


class Everything:
    """A coder that keeps all."""

    bits = 0.0

    def fit(self, x):
        pass

    def coded(self, x):
        return None, x

    def sizes(self):
        return ()


class Nothing(Everything):
    def coded(self, x):
        return None, torch.zeros_like(x)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    model = interp.load_model("planted-backup")
    pairs = interp.load_task("planted-backup").sample(model.tokenizer, 300)
    text.write_text("\n\n".join(pair.clean for pair in pairs))
    config = RateConfig(
        sites=("a1.h0", "a1.h4", "r0"),
        kinds=("vq", "binary", "pca4", "random"),
        bits=(4, 16),
        text=str(text),
        n_tokens=1500,
        n_heldout=300,
        context=20,
        tasks=("planted-backup",),
        n_pairs=12,
    )
    return model, config


def test_keeping_everything_costs_nothing_and_carries_the_whole_effect(bench):
    rate_bench = RateBench(*bench)
    for part in rate_bench.places:
        kept = rate_bench._spliced(part, Everything())["texts"]
        lost = rate_bench._spliced(part, Nothing())["texts"]
        for spec, measures in kept.items():
            assert abs(measures["kl"][0]) < 1e-5 < 1e-4 < lost[spec]["kl"][0]
    assert rate_bench._effect("planted-backup", Everything())["share"] == pytest.approx(1, abs=1e-4)
    assert rate_bench._effect("planted-backup", Nothing())["share"] == pytest.approx(0, abs=1e-4)


def test_kinds_and_rates_are_kept_one_by_one_and_gone_on_with(bench, tmp_path, monkeypatch):
    model, config = bench
    result = measure_rates(model, tmp_path, config)
    rows = {(row["kind"], row["asked"]): row for row in result["rows"]}
    assert set(rows) == {(kind, bits) for kind in config.kinds for bits in config.bits}
    assert "refused" in rows["vq", 16] and "refused" not in rows["binary", 16]
    heads = rows["vq", 4]["parts"]["heads"]
    assert heads["bits"] == 4 and heads["explained"] > rows["random", 4]["parts"]["heads"]["explained"]
    assert 0 < heads["noise_same"] <= 1 and heads["bits_unigram"] <= 4.5

    def beside(_bench, kind: str, bits: int) -> dict:  # while another process measures its kind
        kept = json.loads((tmp_path / "rates.json").read_text())
        kept["rows"].append(result["rows"][0] | {"kind": "other"})
        (tmp_path / "rates.json").write_text(json.dumps(kept))
        return result["rows"][0] | {"kind": kind, "asked": bits}

    monkeypatch.setattr(RateBench, "cell", beside)
    more = measure_rates(model, tmp_path, replace(config, kinds=("random",), bits=(3,)))
    result["rows"] = more["rows"]
    assert [row["kind"] for row in more["rows"][-2:]] == ["other", "random"] and len(more["rows"]) == len(rows) + 2
    monkeypatch.setattr(RateBench, "cell", lambda *_: pytest.fail("made again"))
    assert measure_rates(model, tmp_path, config)["rows"] == json.loads(json.dumps(result["rows"]))
    assert {line.name for line in plot(more, "heads").data} == {*config.kinds, "other"}
