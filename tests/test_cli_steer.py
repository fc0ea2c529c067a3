"""``interp steer`` as a user meets it."""

import json
import re

import pytest

from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.models import load_model
from interp.text import load_text


@pytest.fixture(scope="module")
def folders(tiny_model_folder, tmp_path_factory) -> dict[str, str]:
    """A model and its codebooks, and those of another model."""
    folders = {}
    for name in ("llama", "gpt2"):
        spec = str(tiny_model_folder(name))
        model = load_model(spec)
        text = load_text("stdlib", model, n_tokens=640, context=32)
        out = tmp_path_factory.mktemp("books") / name
        fit_codebooks(model, ["heads"], text, out, FitConfig(n_codes=12, k=2, selection="matching_pursuit"))
        folders |= {name: spec, f"{name} books": str(out)}
    return folders


@pytest.fixture
def steer(command, folders):
    def run(*words: str, model: str = "llama", books: str = "llama books"):
        return command("steer", "--model", folders[model], "--codebooks", folders[books], *words)

    return run


@pytest.mark.parametrize(
    ("how", "conditions"),
    [
        ("--codes a0.h1=3,a1.h2=5", 2),
        ("--add -2 --codes a0.h1=3*0.5,a1.h2=5", 2),
        ("--forbid --codes a0.h1=3,a1.h2=5", 2),
        ("--codes a0.h1=3 --slots 2 --k 2 --random-baseline --positions generated:3", 3),
        ("--add 9 --codes a1.h2=5 --when token:[aeiou]", 2),
        ("--add 9 --codes a1.h2=5 --when a0.h1=3,a0.h1=4", 2),
    ],
)
def test_codes_side_by_side_and_the_python_that_repeats_it(steer, capsys, how, conditions):
    words = [*how.split(), "--prompt", "John went to", "--prompt", "Mary", "--tokens", "6", "--seed", "4"]
    shown = steer(*words)
    assert shown.code == 0, shown.err
    names = ["base", "steered", "random codes"][:conditions]
    assert all(name in shown.out for name in names) and shown.out.count("perplexity ") == 2 * conditions + 1
    program = shown.out[shown.out.index("from interp import") :]
    assert ("positions='generated:3'" in program and "random_baseline=True" in program) == (conditions == 3)
    capsys.readouterr()
    exec(program, {})  # noqa: S102 - what the user is told to run
    printed = re.findall(r" (\d+\.\d{4,})$", capsys.readouterr().out, re.MULTILINE)
    assert len(printed) == 2 * conditions and all(f"perplexity {float(p):.1f}" in shown.out for p in printed)


def test_codes_found_from_files_are_listed_with_precision_and_recall(steer, tmp_path):
    words = ("to", "from", "in", "at", "by", "of")
    files = []
    for name, mark in (("positive", "Z "), ("negative", "")):
        (tmp_path / name).write_text("".join(f"{mark}{word} the store\n" for word in words))
        files += [f"--{name}", str(tmp_path / name)]
    added = steer(*files, *["--top-k", "1", "--tokens", "4", "--token-fraction", "0.5"])
    assert added.code == 0, added.err
    for text in ("1 codes by difference, of ", "6 texts with it, 6 without", "fraction=0.5", "how='added'", "prec."):
        assert text in added.out
    assert added.out.count("parse_codes('a") == 1 and added.out.count("recall") == 1 + 2
    in_place = steer(*files, "--tokens", "4", "--set").out
    assert "how=" not in in_place
    named = re.search(r"parse_codes\('(.*)'\)", in_place)[1].split(",")
    sites = {code.partition("=")[0] for code in named}
    assert f"{len(sites)} codes by difference, of " in in_place and len(sites) == len(named)
    assert " codes by detection, of " in steer(*files, "--tokens", "4", "--by", "detection").out


MISTAKES = """
--codes a0.h1=1 --topic fire
--positive nowhere.txt
--codes a0.h1=1*0.5
--codes m0=1
--codes a0.h1=1 --negative x
--codes a0.h1=1 --slots 3
--codes a0.h1=1 --slots 2 --k 1
--codes a0.h1=1 --top-k 2
--codes a0.h1=1 --chat
--codes a0.h1=1 --samples 3 --temperature 0
--codes a0.h1=1 --add 1 --forbid
--codes a0.h1=1 --when token:(
--codes a0.h1=1 --when label:digits
--codes a0.h1=1 --json -
--codes a0.h1=1 --json .
"""


@pytest.mark.parametrize("words", MISTAKES[:-1].splitlines())  # the first names nothing
def test_a_mistake_is_one_clear_line(steer, words):
    refused = steer(*words.split())
    assert refused.code == 2 and refused.error


def test_codebooks_that_are_of_another_model_or_not_there(steer, command, folders):
    assert "holds codebooks of" in steer("--codes", "a0.h1=1", books="gpt2 books").error
    assert "interp codebook fit" in command("steer", "--model", folders["llama"], "--codes", "a0.h1=1").error


def test_several_texts_of_each_prompt_have_rates(steer, tmp_path):
    """Counted anew from the texts that were written; no text is missed where they fill several batches."""
    words = ["--prompt", "John went to", "--prompt", "Mary"]
    words += ["--codes", "a0.h1=3", "--add", "2", "--samples", "30", "--tokens", "3", "--count", "a,the,b"]
    shown = steer(*words, "--json", str(tmp_path / "texts.json"))
    assert shown.code == 0, shown.err
    assert "with a word [95 %]" in shown.out and "words: a, the, b" in shown.out
    assert "samples=30" in shown.out and shown.out.count("perplexity ") == 4 + 3
    kept = json.loads((tmp_path / "texts.json").read_text())
    assert kept["codes"] == {"base": "", "steered": "a0.h1=3"} and set(kept["texts"]) == {"base", "steered"}
    assert kept["settings"]["seed"] == 0 and kept["settings"]["scale"] == 2
    assert steer(*words, "--seed", "1", "--json", str(tmp_path / "other.json")).code == 0
    again = {text["text"] for text in json.loads((tmp_path / "other.json").read_text())["texts"]["base"]}
    assert len({text["text"] for text in kept["texts"]["base"]} & again) < 10
    for name, texts in kept["texts"].items():
        assert len(texts) == kept["rates"][name]["n"] == 60
        assert [text["prompt"] for text in texts[:3]] == ["John went to", "Mary", "John went to"]
        assert len({text["text"] for text in texts}) > 20  # batches differ in their seed
        held = sum(re.search(r"\b(a|the|b)\b", text["text"], re.IGNORECASE) is not None for text in texts)
        assert kept["rates"][name]["rate"] == held / 60
        assert kept["rates"][name]["low"] <= held / 60 <= kept["rates"][name]["high"]


def test_what_was_written_is_kept_though_printing_it_is_interrupted(steer, tmp_path, monkeypatch):
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.cli.render_codes.print_side_by_side", ended)
    assert steer("--codes", "a0.h1=3", "--tokens", "3", "--json", str(tmp_path / "texts.json")).code != 0
    assert len(json.loads((tmp_path / "texts.json").read_text())["texts"]["steered"]) == 1
