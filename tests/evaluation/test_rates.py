"""Rates: coders of known length, and a coder that keeps everything costs nothing."""

import numpy as np
import pytest
import torch

import interp
from benchmarks.rates import RateBench, RateConfig, code_lengths


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


def test_keeping_everything_costs_nothing_and_carries_the_whole_effect(tmp_path):
    model, text = interp.load_model("planted-backup"), tmp_path / "text.txt"
    pairs = interp.load_task("planted-backup").sample(model.tokenizer, 300)
    text.write_text("\n\n".join(pair.clean for pair in pairs))
    sizes = {"n_tokens": 1500, "n_heldout": 300, "context": 20, "n_pairs": 12}
    sites = ("a1.h0", "a1.h4", "r0")
    rate_bench = RateBench(model, RateConfig(sites=sites, text=str(text), tasks=("planted-backup",), **sizes))
    for part in rate_bench.places:
        kept = rate_bench._spliced(part, Everything())["texts"]
        lost = rate_bench._spliced(part, Nothing())["texts"]
        for spec, measures in kept.items():
            assert abs(measures["kl"][0]) < 1e-5 < 1e-4 < lost[spec]["kl"][0]
    assert rate_bench._effect("planted-backup", Everything())["share"] == pytest.approx(1, abs=1e-4)
    assert rate_bench._effect("planted-backup", Nothing())["share"] == pytest.approx(0, abs=1e-4)
