"""What a GPU meets: half precision, no tensor left on the CPU, and few waits for the device."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interp.activations.stream import answer_logits
from interp.models import load_model
from interp.scores.registry import load_method
from tests.pairs import random_pairs

METHODS = ["attribution", "nap-ig", "eap", "eap-ig", "relp", "gim", "atp-star", "patching", "adaptive-patching"]


class Waits(TorchDispatchMode):
    """Counts numbers that are read out of tensors: on a GPU each waits for all that was asked before."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_scores_in_bfloat16_are_those_of_float32_and_wait_once_in_two_forwards_at_most(name, tiny_model_folder):
    folder, pairs, results = str(tiny_model_folder("llama")), random_pairs(60, n=8), []
    for dtype in ("float32", "bfloat16"):
        model = load_model(folder, dtype=dtype)
        assert next(model.parameters()).dtype == getattr(torch, dtype)
        with Waits() as waits:
            scores = load_method(name)(model, pairs)
        assert 0 < waits.n <= scores.cost.forwards / 2
        results.append(scores.heads.ravel())
    assert np.corrcoef(*results)[0, 1] > 0.998 and not np.array_equal(*results)


def test_a_forward_stays_on_its_device(tiny_model_folder):
    """On the meta device a tensor of another one, or a copy to the CPU, raises."""
    model = load_model(str(tiny_model_folder("gemma3"))).to("meta")
    pairs = list(random_pairs(60, n=3))
    tokens = torch.tensor([pair.clean_tokens for pair in pairs], device="meta")
    hooks = {"blocks.1.attn.hook_z": lambda z: 2 * z}
    for metric in ("logit_diff", "prob_diff"):
        answer = answer_logits(model, tokens, pairs, metric, hooks)
        assert answer.is_meta and answer.shape == (3, model.cfg.d_vocab)
