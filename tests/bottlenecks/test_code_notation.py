"""Codes in a line of text: what is written is what is read."""

import pytest

from interp.bottlenecks.edits import code_edits, format_codes, parse_code
from interp.errors import InputError
from interp.steering import AddCode, ForbidCode, SetCode, WeightedCode, parse_codes


def test_codes_are_read_as_they_are_written():
    codes = [
        WeightedCode("a12.h3", 417),
        WeightedCode("m5", 31, 0.1),
        WeightedCode("a1.h0", 0, -2.0),
        WeightedCode("r4", 7, 1.5e-05),
    ]
    assert format_codes(codes) == "a12.h3=417,m5=31*0.1,a1.h0=0*-2.0,r4=7*1.5e-05"
    assert parse_codes(format_codes(codes)) == codes
    assert parse_codes(" a12.h3=417, m5=31*.5\n") == [codes[0], WeightedCode("m5", 31, 0.5)]
    assert parse_codes("L12H3=417,blocks.5.hook_mlp_out=31")[1] == WeightedCode("m5", 31)
    assert parse_code("L12H3=417") == ("a12.h3", 417)


@pytest.mark.parametrize(
    "text", ["", "a1", "=3", "a1=x", "a1=3*", "a1=3*x", "a1=3*nan", "a1=3*1e999", "a1=-3", "a1=3*2*2", "a1=²"]
)
def test_anything_else_is_a_clear_error(text):
    with pytest.raises(InputError, match="SITE=ID"):
        parse_codes(text)


def test_weights_multiply_what_is_added_and_nothing_else():
    codes = [WeightedCode("a12.h3", 417, 0.5), WeightedCode("m5", 31)]
    assert code_edits(codes, "added", scale=2, rows=(1,)) == [
        AddCode("a12.h3", 417, 1.0, (1,), from_mean=True),
        AddCode("m5", 31, 2.0, (1,), from_mean=True),
    ]
    assert code_edits(codes[1:], "set") == [SetCode("m5", 31)]
    assert code_edits(codes[1:], "forbidden") == [ForbidCode("m5", 31)]
    for how in ("set", "forbidden"):
        with pytest.raises(InputError):
            code_edits(codes, how)
