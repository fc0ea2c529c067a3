"""Settings that are one of a few words: any other is named, also where no command line looks first."""

from dataclasses import fields
from typing import Literal, get_origin, get_type_hints

import numpy as np
import pytest

from interp.bottlenecks import CodebookConfig, DiscreteSAEConfig
from interp.bottlenecks.fit import FitConfig
from interp.errors import InputError
from interp.evaluation.steering import SteeringConfig
from interp.scores.registry import METHODS, load_method
from interp.training import TrainConfig

CHOICES = [
    (name, field.name)
    for name in METHODS
    for field in fields(load_method(name).config)
    if get_origin(field.type) is Literal
]


@pytest.mark.parametrize(("method", "field"), CHOICES)
def test_a_misspelt_choice_is_refused(method, field):
    config = load_method(method).config()
    object.__setattr__(config, field, "tsak")  # tests check types before a constructor is reached
    with pytest.raises(InputError, match=f"{field} 'tsak': choose "):
        config.__post_init__()


@pytest.mark.parametrize(
    "config",
    [CodebookConfig(4, 8), DiscreteSAEConfig(4, 8), FitConfig(), TrainConfig(), SteeringConfig()],
    ids=lambda config: type(config).__name__,
)
def test_whole_numbers_of_numpy_are_numbers_and_halves_are_refused(config):
    numbers = [name for name, kind in get_type_hints(type(config)).items() if kind is int]
    assert "seed" in numbers and len(numbers) > 2
    for name in numbers:
        object.__setattr__(config, name, np.int64(getattr(config, name)))
    config.__post_init__()
    assert {type(getattr(config, name)) for name in numbers} == {int}
    for name in numbers:
        kept = getattr(config, name)
        object.__setattr__(config, name, 1.5)
        with pytest.raises(InputError, match=f"{name} 1.5: it must be a whole number"):
            config.__post_init__()
        object.__setattr__(config, name, kept)
