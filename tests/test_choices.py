"""Settings that are one of a few words: any other is named, also where no command line looks first."""

from dataclasses import fields
from typing import Literal, get_origin

import pytest

from interp.scores import METHODS, load_method
from interp.tasks.errors import InputError

CHOICES = [
    (name, field.name)
    for name in METHODS
    for field in fields(load_method(name).config)
    if get_origin(field.type) is Literal
]


def test_types_are_types_where_choices_are_looked_up():
    for name in METHODS:
        assert not any(isinstance(field.type, str) for field in fields(load_method(name).config)), name


@pytest.mark.parametrize(("method", "field"), CHOICES)
def test_a_misspelt_choice_is_refused(method, field):
    config = load_method(method).config()
    object.__setattr__(config, field, "tsak")  # tests check types before a constructor is reached
    with pytest.raises(InputError, match=f"{field} 'tsak': choose "):
        config.__post_init__()
