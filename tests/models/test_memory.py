"""Memory: a run that will not fit is refused before it starts."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from interp.errors import InputError
from interp.models import limits
from interp.models.limits import check_memory, check_weights, estimate_memory, weight_bytes


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_weight_bytes_are_those_of_the_loaded_parameters(family, tiny_model_folder):
    config = AutoConfig.from_pretrained(tiny_model_folder(family))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(family))
    exact = sum(parameter.nbytes for parameter in model.parameters())
    assert weight_bytes(config, torch.float32) == exact
    assert weight_bytes(config, torch.bfloat16) == exact // 2


def test_model_that_does_not_fit_is_refused_from_its_config_alone():
    giant = LlamaConfig(hidden_size=16384, intermediate_size=65536, num_hidden_layers=200, num_attention_heads=128)
    with pytest.raises(InputError, match=r"needs about \d+\.\d GiB, .* free on cpu: try --dtype bfloat16"):
        check_weights(giant, torch.float32, torch.device("cpu"))


def test_run_that_does_not_fit_says_what_to_try(model, monkeypatch):
    check_memory(model, 4, 16)
    monkeypatch.setattr(limits, "free_memory", lambda _: estimate_memory(model, 4, 16) - 1)
    with pytest.raises(InputError, match="a smaller --batch-size or --dtype bfloat16"):
        check_memory(model, 4, 16)
