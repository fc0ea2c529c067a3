"""Hashes of weights tell models apart, and do not where nothing but how they were loaded differs."""

import pytest
import torch

from interp.models import load_model, weights_checksum, weights_digest


@pytest.fixture
def model(tiny_model_folder):
    """A fresh one: its weights are changed."""
    return load_model(str(tiny_model_folder("llama")))


def _heads(model, layer: int):
    return model.original_model.model.layers[layer].self_attn.o_proj.weight


def _assert_heads_tell(model, layer: int) -> None:
    width, plain = model.cfg.d_head, weights_digest(model)
    for head in range(model.cfg.n_heads):
        with torch.no_grad():
            weight = _heads(model, layer)[:, head * width : (head + 1) * width]
            kept = weight.clone()
            weight.zero_()
            assert weights_digest(model) != plain
            weight.copy_(kept)
    assert weights_digest(model) == plain


def test_whichever_head_is_pruned_the_model_is_another(model):
    _assert_heads_tell(model, 1)


@pytest.mark.slow
def test_whichever_head_of_smollm2_is_pruned_the_model_is_another():
    """Its rows are as long as the steps that the places once had, which stayed in four columns."""
    model = load_model()
    _assert_heads_tell(model, 15)
    assert weights_digest(load_model(dtype="bfloat16")) == weights_digest(model)


def test_how_a_model_was_loaded_makes_no_other_one_of_it(tiny_model_folder):
    folder = str(tiny_model_folder("llama"))
    models = [load_model(folder, dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert len({weights_digest(model) for model in models}) == 1
    assert len({weights_checksum(model) for model in models}) == 2


def test_the_least_change_makes_another_checksum(model):
    before = weights_checksum(model)
    with torch.no_grad():
        _heads(model, 0)[3, 5] *= 1.001
    assert weights_checksum(model) != before
