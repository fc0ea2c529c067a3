"""What is shown to be run again says everything: the words of the command line, and Python that compiles."""

import ast
import shlex

import pytest

from interp.steering import WeightedCode
from interp.steering.codegen import command, program

SETTINGS = {
    "model": "smollm2-135m-instruct",
    "codebooks": None,
    "k": None,
    "codes": [WeightedCode("a12.h3", 417), WeightedCode("m5", 31)],
    "control": None,
    "slots": 1,
    "add": None,
    "forbid": False,
    "prompts": ["it's $HOME; `x`"],
    "tokens": 40,
    "positions": "generated",
    "fraction": 1.0,
    "seed": 3,
    "error_term": True,
    "temperature": 1.0,
    "chat": False,
}


def test_the_command_is_quoted_for_a_shell_and_leaves_out_what_is_usual():
    assert shlex.split(command(SETTINGS)) == [
        *("interp", "steer", "--codes", "a12.h3=417,m5=31", "--prompt", "it's $HOME; `x`", "--tokens", "40"),
        *("--positions", "generated", "--temperature", "1.0", "--seed", "3"),
    ]


@pytest.mark.parametrize(
    ("changed", "words", "python"),
    [
        (
            {"add": -1.5},
            "--add=-1.5",
            "    add=-1.5,\n    positions=",
        ),
        ({"forbid": True}, "--forbid", "    forbid=True,\n    positions="),
        ({"slots": 2, "k": 4}, "--slots 2", "    slots=2,\n    positions="),
        ({"k": 4}, "--k 4", "k=4)"),
        ({"chat": True, "error_term": False}, "--chat --splice", "chat=True"),
        (
            {"fraction": 0.5, "positions": "generated:4"},
            "--positions generated:4 --share 0.5",
            "'generated:4'",
        ),
        (
            {"control": [WeightedCode("a12.h3", 1), WeightedCode("m5", 2, 0.5)]},
            "--control",
            "'random codes': parse_codes('a12.h3=1,m5=2*0.5'),",
        ),
        (
            {"model": "gpt2", "codebooks": "runs/a b"},
            "--codebooks 'runs/a b' --model gpt2",
            "Path('runs/a b')",
        ),
        ({"codebooks": "runs/books", "k": 1}, "--k 1", "k=1)"),
        (
            {"device": "cuda:1", "dtype": "bfloat16"},
            "--device cuda:1 --dtype bfloat16",
            "load_model('smollm2-135m-instruct', device='cuda:1', dtype='bfloat16')",
        ),
    ],
    ids=str,
)
def test_what_is_not_usual_stands_in_both(changed, words, python):
    assert words in command(SETTINGS | changed)
    source = program(SETTINGS | changed)
    ast.parse(source)
    assert python in source
