"""The page *Steering*: base and steered as the library makes them, and nothing it is given becomes markup."""

import json
import re
import shlex
import shutil
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch

from interp.app import engine
from interp.app.steering.comparison import session
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import code_edits
from interp.bottlenecks.store import Codebooks
from interp.evaluation.steering_conditions import means_of_texts
from interp.models.generate import generate
from interp.steering import AddCode, SetCode, parse_codes
from interp.steering.cache import identity
from interp.steering.code_set import SCALE
from interp.steering.continuations import continue_prompts, encode_prompts, step_divergences, surprise
from interp.steering.control_vector import vector_books
from tests.app.conftest import array_of, error_of, files_of, plot_of, press, strips_of, table_of, text_of

CODES = "a0.h1=3, a1.h2=5"
NEGATIVE = tuple(f"{word} the store" for word in ("to", "from", "in", "at", "by", "of"))
POSITIVE = tuple(f"Z {text}" for text in NEGATIVE)
ARMS = ("Base", "Codes", "Difference of means", "Said in the prompt")


@pytest.fixture
def page(open_page, runs_with_books):
    return lambda **address: open_page("steering", runs_with_books, **address)


def _press(app):
    """Steer, with few tokens."""
    app.number_input(key="tokens").set_value(8)
    return press(app, "Steer")


def _judged(app) -> list[str]:
    """What stands below the name of each text."""
    return [caption.value for caption in app.caption if caption.value.startswith("perplexity")]


def _choice(app, key: str):
    """Pills or a segmented control."""
    return next(choice for choice in app.get("button_group") if str(choice.key).startswith(key))


def _open(app, text: int, token: int) -> None:
    _choice(app, "opened text").set_value(text).run()
    app.selectbox(key="opened token").set_value(token).run()
    assert not app.exception


def _measured(app) -> str:
    """The line on how often the preset worked."""
    [line] = [caption.value for caption in app.caption if "to the store" in caption.value]
    return line


def test_base_and_steered_are_what_the_library_makes_of_them(page, runs_with_books, model, capsys, command):
    before = files_of(runs_with_books)
    app = page(source="by name")
    assert "Nothing steered yet" in text_of(app)
    app.text_area(key="prompt").set_value("John went to")
    app.text_area(key="codes").set_value(CODES)
    app.number_input(key="seed").set_value(4)
    _press(app)
    assert not app.error
    books = Codebooks.from_pretrained(runs_with_books / "books", model)
    edits = [SetCode("a0.h1", 3, rows=[1]), SetCode("a1.h2", 5, rows=[1])]
    within = attach(model, books, read=False).edit(*edits, seed=4)
    base, steered = continue_prompts(model, ["John went to"] * 2, 8, within=within, seed=4)
    assert base.tokens != steered.tokens
    ids = encode_prompts(model, ["John went to"])[0]
    _, divergence = step_divergences(model, books, edits, ids, [base.tokens, steered.tokens], seed=4)
    assert _judged(app) == [
        f"perplexity {base.perplexity:.1f}",
        f"perplexity {steered.perplexity:.1f} · KL {divergence.mean():.2f}",
    ]
    table = app.dataframe[0].value
    assert table["text"].tolist() == ["Base"] * len(base.tokens) + ["Codes"] * len(steered.tokens)
    expected = np.concatenate([base.surprise, steered.surprise])
    np.testing.assert_allclose(table["surprise"].astype(float), expected, atol=1e-5)
    rows = table[table["text"] == "Codes"]
    np.testing.assert_allclose(rows["KL"].astype(float), divergence, atol=1e-5)
    assert "".join(rows["token"]) == steered.text and table["KL"][table["text"] == "Base"].isna().all()
    assert len(app.get("plotly_chart")) == 3
    for number, values in enumerate((base.surprise, steered.surprise, divergence)):
        np.testing.assert_allclose(array_of(plot_of(app, number)["data"][0]["y"]), values, atol=1e-5)
    assert f"mean {divergence.mean():.2f}, largest {divergence.max():.2f} at " in text_of(app)
    left, right = strips_of(app)
    assert not any(left["rows"][0]["titles"])
    # the last token of the prompt and all new ones but the last
    assert right["rows"][0]["titles"].count("codes edited here") == 8 == len(steered.tokens)
    # the Python that the page gives makes the same, and so does the command line
    exec(app.code[0].value, {})  # noqa: S102 - what the user is told to run
    assert f"{steered.perplexity}" in capsys.readouterr().out
    again = command(*shlex.split(app.code[1].value)[1:])
    assert again.code == 0, again.err
    assert f"perplexity {steered.perplexity:.1f}" in again.out
    assert files_of(runs_with_books) == before
    kept = json.loads(json.dumps(session(app.session_state["comparison"])))
    assert [text["text"] for text in kept["texts"]] == [text.prompt + text.text for text in (base, steered)]


def test_what_was_kept_elsewhere_is_neither_read_nor_written(open_page, runs_with_books, tmp_path):
    runs = Path(shutil.copytree(runs_with_books, tmp_path / "runs"))
    (tmp_path / "elsewhere").mkdir()
    (runs / ".found").symlink_to(tmp_path / "elsewhere")
    app = open_page("steering", runs, source="of texts", positive="a fire", negative="a store")
    _press(app)
    assert "is a link to another place" in app.error[0].value and not list((tmp_path / "elsewhere").iterdir())


def test_the_link_of_a_comparison_has_everything(page):
    app = page(source="by name")
    app.text_area(key="prompt").set_value("John & <Mary>?")
    app.text_area(key="codes").set_value(CODES)
    app.selectbox(key="positions").set_value("generated")
    app.text_input(key="when").set_value("token:[^a-z]")
    for key, value in (("begin", 3), ("fraction", 0.5), ("seed", 7)):
        app.number_input(key=key).set_value(value)
    app.multiselect(key="beside").set_value(["Random codes"])
    _press(app)
    assert "**Random codes**" in [markdown.value for markdown in app.markdown]
    other = page(**dict(parse_qsl(urlsplit(app.code[2].value).query)))
    assert other.text_area(key="prompt").value == "John & <Mary>?"
    assert other.multiselect(key="beside").value == ["Random codes"]
    _press(other)
    assert len(_judged(app)) == 3 and _judged(other) == _judged(app)
    assert other.code[0].value == app.code[0].value


@pytest.fixture
def presets(model, runs_with_books, tmp_path, monkeypatch) -> Path:
    """A file of two presets, one of them with markup in its name, for the tiny model and its codebooks."""
    made_with = identity(model, Codebooks.from_pretrained(runs_with_books / "books", model))
    form = {"prompt": "Mary had", "codes": "a1.h2=5*0.25,m0=2", "how": "added", "scale": 2.5}
    measured = {"n": 20, "words": ["b"], "hits": [1, 15, 2], "perplexities": [9.0, 14.2, 12.0]}
    preset = {"name": "to the store", "temperature": 0.7, "n_tokens": 8, "found": "Found from 6 sentences."}
    preset |= form | {"measured": measured}
    file = tmp_path / "presets.json"
    presets_stored = [preset, preset | {"name": "<b>*", "codes": "m1=1"}]
    file.write_text(json.dumps({"format": 1, "made_with": made_with, "presets": presets_stored}), encoding="utf-8")
    monkeypatch.setattr("interp.steering.topics.FILE", file)
    return file


@pytest.mark.usefixtures("presets")
def test_a_preset_is_a_topic_that_says_how_often_it_worked_as_it_was_measured(page):
    app = page(topic="to the store", prompt="Mary had", tokens="8")
    assert app.selectbox(key="how").value == "added" and app.number_input(key="scale").value == SCALE
    for words in ("these codes 15 of 20", "without 1 of 20", "heads 2 of 20", "perplexities 14, 9 and 12"):
        assert words in _measured(app)
    assert "other settings" not in _measured(app)
    _press(app)
    assert not app.error and "parse_codes('a1.h2=5*0.25,m0=2')" in app.code[0].value
    app.number_input(key="fraction").set_value(0.5)
    _press(app)
    assert "other settings" in _measured(app)
    assert r"\<b\>\*" in _choice(app, "topic").options


def test_codes_are_found_from_texts_and_listed_and_kept(page, runs_with_books):
    app = page(source="by name")
    assert app.selectbox(key="how").value == "set"
    app.radio(key="source").set_value("of texts").run()
    assert app.selectbox(key="how").value == "added" and app.number_input(key="scale").value == SCALE
    app.text_area(key="positive").set_value("\n".join(POSITIVE))
    app.text_area(key="negative").set_value("\n".join(NEGATIVE))
    app.number_input(key="top_k").set_value(2)
    _press(app)
    assert not app.error
    table = table_of(app, "precision")
    assert list(table.columns) == ["site", "code", "weight", "effect", "precision", "recall", "q", "page"]
    assert len(table) == 2 and table["page"][0] == f"/codes?code={table['site'][0]}={table['code'][0]}"
    codes = ",".join(f"{row.site}={row.code}*{row.weight}" for row in table.itertuples())
    assert f"parse_codes('{codes}')" in app.code[0].value
    [kept] = (runs_with_books / ".found").glob("*.json")
    assert f'"code": {table["code"][0]}' in kept.read_text(encoding="utf-8")
    before = files_of(runs_with_books)
    app.number_input(key="seed").set_value(3)  # of the texts: the codes stay those that were found
    _press(app)
    assert files_of(runs_with_books) == before and len(table_of(app, "precision")) == 2
    assert f"parse_codes('{codes}')" in app.code[0].value and "seed=3" in app.code[0].value
    kept.write_text("{", encoding="utf-8")
    _press(app)
    assert not app.error and files_of(runs_with_books)[str(kept)] != before[str(kept)]
    app.radio(key="source").set_value("by name").run()
    assert app.selectbox(key="how").value == "set"


@pytest.fixture
def four(page):
    """Base, codes, a difference of means and something said in the prompt."""
    fields = {"positive": "\n".join(POSITIVE), "negative": "\n".join(NEGATIVE), "said": "All about Z.", "times": "4"}
    app = page(source="of texts", prompt="John went to", top_k="2", **fields)
    app.multiselect(key="beside").set_value(["Difference of means", "Said in the prompt"])
    _press(app)
    assert not app.error
    return app


def test_a_difference_of_means_and_a_prompt_stand_beside_the_codes(four, model):
    strips = {name: "".join(strip["pieces"]) for name, strip in zip(ARMS, strips_of(four), strict=True)}
    assert strips["Said in the prompt"].startswith("All about Z. John went to")
    means = means_of_texts(model, ["r1"], POSITIVE, NEGATIVE)
    vector = {"r1": means.difference("r1")}
    within = attach(model, vector_books(model, vector), read=False).edit(AddCode("r1", 0, 4.0))
    [moved] = continue_prompts(model, ["John went to"], 8, within=within)
    assert strips["Difference of means"] == "John went to" + moved.text != strips["Base"]
    assert f"perplexity {moved.perplexity:.1f} · KL" in _judged(four)[2]
    # what is said counts for what it makes the model write, judged behind the same prompt
    ids = encode_prompts(model, ["All about Z. John went to", "John went to"])
    [written] = continue_prompts(model, ["All about Z. John went to"], 8)
    [surprises] = surprise(model, ids[1:], [written.tokens])
    assert strips["Said in the prompt"].endswith(written.text)
    assert f"perplexity {np.exp(surprises.mean()):.1f} · KL" in _judged(four)[3]


def test_a_token_that_is_opened_shows_what_could_have_come_and_the_codes_there(four, model, runs_with_books):
    _open(four, 1, 3)
    assert not four.exception
    [_, strip, *_] = strips_of(four)
    assert strip["chosen"] == strip["first"] + 3
    likely = table_of(four, "next token", "base", "Codes")
    codes = re.search(r"parse_codes\('([^']*)'\)", four.code[0].value)[1]
    books = Codebooks.from_pretrained(runs_with_books / "books", model)
    ids = encode_prompts(model, ["John went to"])[0]
    edits = code_edits(parse_codes(codes), "added", scale=SCALE, rows=[1])
    within = attach(model, books, read=False).edit(*edits)
    texts = continue_prompts(model, ["John went to"] * 2, 8, within=within)
    tokens = torch.tensor([[*ids, *texts[1].tokens[:3]]] * 2)
    edited = attach(model, books).edit(*edits, positions=slice(len(ids) - 1, None))
    with torch.no_grad(), edited as seen:
        plain_p, p = model(tokens)[:, -1].softmax(-1)
    best = p.argmax().item()
    assert likely["Codes"][0] == pytest.approx(p[best].item()) and likely["base"][0] == pytest.approx(
        plain_p[best].item()
    )
    chosen = likely[likely["next token"].str.endswith("←")]
    assert chosen["Codes"].item() == pytest.approx(p[texts[1].tokens[3]].item())
    codes_there = table_of(four, "in the base").set_index("site")
    assert len(codes_there) == 10
    for site, (rows, base) in {"a1.h2": seen.ids["a1"][[1, 0], -1, 2], "m1": seen.ids["m1"][[1, 0], -1]}.items():
        rows, base = (", ".join(map(str, row.tolist())) for row in (rows, base))
        assert tuple(codes_there.loc[site]) == (rows, base if rows != base else "")
    assert "with the edits of this text at the token before" in text_of(four)


def test_a_text_goes_on_from_another_token(four, model):
    _open(four, 0, 2)
    request, (base, *_), *_ = four.session_state["comparison"]
    before, tokens = strips_of(four)[0], base.text.tokens
    other = next(text for text in four.session_state["inspected token"][1][0] if text.token != tokens[2])
    _choice(four, "branch").set_value(other.token).run()
    press(four, "Branch")
    [*_, strip] = strips_of(four)
    first = strip["first"]
    assert len(strips_of(four)) == 5 and strip["pieces"][: first + 2] == before["pieces"][: first + 2]
    ids = [*encode_prompts(model, ["John went to"])[0], *tokens[:2], other.token]
    continued = generate(model, torch.tensor([ids]), 8, temperature=0.7, seed=request.seed)[0, len(ids) :].tolist()
    assert "".join(strip["pieces"][first:]) == model.tokenizer.decode([*tokens[:2], other.token, *continued])
    _open(four, 4, 2)
    assert "chosen by hand" in text_of(four)
    # new texts, and the branch is gone
    _press(four)
    assert len(strips_of(four)) == 4


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"prompt": " "}, "no prompt"),
        ({"prompt": "a b " * 100}, "8 new ones"),
        ({"chat": "true"}, "no chat template"),
        ({"codes": "![x](https://example.org/x.png)=1"}, "![x]("),
        *(({"codes": codes}, "") for codes in ("a7.h1=1", "a0.h1=99", "a0.h1", "", "a0.h1=1 a0.h1=2 a0.h1=3")),
    ],
)
def test_what_cannot_be_steered_is_one_clear_line(page, address, message):
    app = page(**{"source": "by name", "codes": CODES} | address)
    if "prompt" in address:
        with engine.turn():  # while another tab has the model
            _press(app)
    else:
        _press(app)
    assert message in error_of(app) and not strips_of(app)


def test_markup_in_a_prompt_is_shown_as_text(page):
    app = page(source="by name", codes=CODES, prompt="<script>alert(1)</script> <b>")
    _press(app)
    strips = ["".join(strip["pieces"]) for strip in strips_of(app)]
    assert strips and all(strip.startswith("<script>") for strip in strips)
    _open(app, 1, 0)
    for element in (*app.subheader, *app.markdown, *app.caption):
        assert not re.search(r"(?<!\\)<", element.value), element.value
