"""The page *Circuit*: what it shows is what the run and the library say, whatever it is given."""

import base64
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from interp.app.circuit_discovery import COSTS, LARGEST, Progress, run_name
from interp.app.circuit_runs import Kept
from interp.bottlenecks.attach import attach
from interp.bottlenecks.book_folder import load_codebooks
from interp.circuits.choose import mean_interval
from interp.circuits.head_view import view_pair
from interp.discovery import discover
from interp.models import load_model, parse_site
from interp.report import wording
from interp.report.components import Scale
from interp.report.figures import EXPONENT
from interp.runs import DETAILS, PROMPTS, RESULT, Run
from interp.scores import METHODS
from interp.tasks import PromptFile, load_task
from tests.app.conftest import files_of, html_of
from tests.report.synthetic import make_run

PLACES = ("store", "war", "year", "school", "drink", "files", "code", "number", "read", "load")
N = 8


def _prompts() -> bytes:
    """Pairs whose clean and corrupt prompts the tiny Llama tells apart by the logits of ``G`` and ``m``."""
    prompts = [
        {
            "clean": f"When Mary and John went to the {place}, John gave a",
            "corrupt": f"When John and Mary went to the {place}, Mary gave a",
            "answers": ["G"],
            "wrong_answers": ["m"],
        }
        for place in PLACES
    ]
    return json.dumps({"prompts": prompts, "word_idxs": {"S1": 4}}).encode()


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(str(tiny_model_folder("llama")))


@pytest.fixture(scope="module")
def real(model, runs_with_books, tmp_path_factory) -> Path:
    """A runs folder with codebooks and ``mine``, a discovery on the tiny Llama; tests that write copy it."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(runs_with_books / "books", folder / "books")
    task = PromptFile("mine.json", _prompts())
    discover(task, model=model, n=N).save(folder / "mine", prompts=task)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    make_run(n_layers=4, n_heads=4, members=3, n_pairs=10).save(folder / "small")
    make_run(n_layers=4, n_heads=4, members=5, n_pairs=12, seed=1).save(folder / "larger")
    return folder


@pytest.fixture
def runs(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "runs"))


@pytest.fixture
def page(open_page):
    return lambda folder, **address: open_page("circuit", folder, **address)


def _metric(app: AppTest, label: str) -> str:
    return next(metric.value for metric in app.metric if metric.label == label)


def _figure(app: AppTest, alt: str) -> dict:
    """The figure whose description for screen readers begins like this."""
    found = [chart.proto for chart in app.get("plotly_chart") if chart.proto.alt.startswith(alt)]
    assert len(found) == 1, alt
    return json.loads(found[0].spec)


def _array(value) -> np.ndarray:
    """Numbers of a figure, as they stand or packed."""
    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        shape = value.get("shape")
        return flat.reshape([int(n) for n in shape.split(",")]) if shape else flat
    return np.array(value, dtype=float)


def _text(app: AppTest) -> str:
    """All Markdown of the page, without its backslashes."""
    return re.sub(r"\\(.)", r"\1", "\n".join(element.value for element in (*app.markdown, *app.caption)))


def _table(app: AppTest, *columns: str):
    return next(frame.value for frame in app.dataframe if set(columns) <= set(frame.value.columns))


def _press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception
    return app


def test_without_runs_it_says_how_to_make_one_here_or_in_a_terminal(page, tmp_path):
    app = page(tmp_path / "none")
    assert "No runs" in app.info[0].value and app.code[0].value == "interp discover ioi"
    assert app.selectbox(key="find task").value == "ioi" and app.selectbox(key="find method").value == "codes"
    assert [button.label for button in app.button] == ["Find"] and not app.metric
    assert not (tmp_path / "none").exists()


def test_methods_are_offered_the_cheap_ones_first():
    assert set(COSTS) == set(METHODS)
    priced = [cost for method, cost in COSTS.items() if method not in ("layer-index", "random")]
    assert priced == sorted(priced)


def test_the_grid_holds_the_runs_scores_and_marks_its_members(page, runs):
    run = Run.load(runs / "small")
    app = page(runs, run="small")
    assert app.selectbox[0].value == "small" and not app.error
    assert _metric(app, "Members") == "3" and _metric(app, "Pairs") == "10"
    colours, members, points = _figure(app, "Score of every head")["data"]
    scores = np.zeros((4, 4))
    for head in run.result["heads"]:
        scores[head["head"], head["layer"]] = head["score"]
    expected = np.sign(scores) * (abs(scores) / abs(scores).max()) ** EXPONENT
    np.testing.assert_allclose(_array(colours["z"]), expected, atol=1e-6)
    sites = [site for site, _turn in points["customdata"]]
    assert sites == [head["site"] for head in run.result["heads"]]
    assert len(_array(members["x"])) == 3 * 6
    assert points["selectedpoints"] == [sites.index(run.members[0]["site"])]
    gap = run.result["metric"]["clean"] - run.result["metric"]["corrupt"]
    shares = {part["site"]: f"{100 * part['effect'] / gap:.0f}".replace("-", "−") for part in run.members}
    written = {site: text for site, text in zip(sites, points["text"], strict=True) if text}
    assert written == shares
    table = _table(app, "site", "effect", "share of gap")
    assert list(table.site) == [part["site"] for part in run.members]
    np.testing.assert_allclose(table.effect, [part["effect"] for part in run.members])


def test_a_stored_head_shows_what_the_run_holds_and_runs_nothing(page, runs):
    run = Run.load(runs / "small")
    scale = Scale.of(run)
    app = page(runs, run="small")
    for part in run.members:
        app.selectbox(key="head").set_value(part["site"]).run()
        assert not app.exception and not app.error
        detail = run.details["members"][part["site"]]
        effect = [wording.signed(part[key], scale.places) for key in ("effect", "effect_low", "effect_high")]
        assert f"**{part['site']}** · member · score {scale.score(part['score'])}" in _text(app)
        assert "effect {} [{}, {}]".format(*effect) in _text(app)
        assert f"**{wording.signed(detail['direct'], 3)}** to the logit difference" in _text(app)
        pattern = _figure(app, f"Attention pattern of {part['site']}")["data"][0]
        np.testing.assert_allclose(_array(pattern["customdata"]), detail["pattern"])
        bars = next(body for body in html_of(app) if "raises most" in body)
        written = [(wording.token(text, 18), value) for text, value in detail["writes"]["top"]]
        assert [html.unescape(text) for text in re.findall('title="([^"]*)"', bars)][:8] == [
            t for t, _ in written
        ]
        assert re.findall(r">([+−][\d.]+)<", bars)[:8] == [wording.signed(value, 2) for _, value in written]
        clean = {row.code: row.clean for row in _table(app, "code", "clean", "corrupt").itertuples()}
        assert clean[detail["codes"]["clean"][0][0]] == pytest.approx(100 * detail["codes"]["clean"][0][1])
        assert app.query_params["head"] in (part["site"], [part["site"]])
    # the run is of a model that this workbench does not have: everything above came from the run
    app.selectbox(key="pair").set_value("2").run()
    assert not app.exception and not app.get("plotly_chart")[1:]


def test_what_is_chosen_stands_in_the_address_and_is_read_from_it(page, real):
    run = Run.load(real / "mine")
    other = next(head["site"] for head in run.result["heads"] if not head["in_circuit"])
    app = page(real, run="mine", head=other, pair="2", side="corrupt")
    assert app.selectbox(key="head").value == other and app.selectbox(key="pair").value == "2"
    assert f"**{other}** · not a member" in _text(app)
    assert [chart.proto.alt for chart in app.get("plotly_chart")][
        1
    ] == f"Attention pattern of {other} on the corrupt prompt"
    app = page(real, run="mine", head="a9.h9", pair="99")
    assert (
        app.selectbox(key="head").value == run.members[0]["site"] and app.selectbox(key="pair").value == "1"
    )


def test_a_head_on_a_prompt_that_the_run_does_not_hold_is_read_from_the_model(page, real, model):
    app = page(real, run="mine", head="a1.h3", pair="3", side="corrupt")
    run = Run.load(real / "mine")
    pair = run.sample_again(real / "mine", model.tokenizer, N)[2]
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([pair.corrupt_tokens]))
    pattern = cache["blocks.1.attn.hook_pattern"][0, 3]
    shown = _figure(app, "Attention pattern of a1.h3 on the corrupt prompt")["data"][0]
    np.testing.assert_allclose(_array(shown["customdata"]), pattern, atol=1e-5)
    # by hand: the head's part of the final residual stream, through the RMS norm of the whole, to the logits
    written = cache["blocks.1.attn.hook_z"][0, -1, 3] @ model.blocks[1].attn.W_O[3]
    resid = cache["blocks.1.hook_resid_post"][0, -1]
    added = (written / resid.pow(2).mean().sqrt() * model.ln_final.weight) @ model.W_U
    right, wrong = (float(added[list(ids)].mean()) for ids in (pair.answers, pair.wrong_answers))
    assert f"adds **{wording.signed(right, 3)}** to the answer G" in _text(app)
    assert (
        f"**{wording.signed(wrong, 3)}** to the wrong m: **{wording.signed(right - wrong, 3)}** together"
        in _text(app)
    )
    metric = float(logits[0, -1, pair.answers[0]] - logits[0, -1, pair.wrong_answers[0]])
    assert f"metric here is {wording.signed(metric, 3)}" in _text(app)
    bars = next(body for body in html_of(app) if "raises most" in body)
    largest = max(float(text) for text in re.findall(r">\+([\d.]+)<", bars))
    assert largest == pytest.approx(float(added.max()), abs=0.006)


def _set_by_hand(model, books, pairs, code: int, head: int, column: int | None) -> np.ndarray:
    """The metric on the clean prompts with head ``head`` of layer 0 set, one prompt at a time."""
    values = []
    for pair in pairs:
        with torch.no_grad(), attach(model, {"a0": books["a0"]}, error_term=True) as attached:
            attached.set_ids("a0", code, group=head, slot=0, positions=column)
            logits = model(torch.tensor([pair.clean_tokens]))[0, -1]
        values.append(float(logits[list(pair.answers)].mean() - logits[list(pair.wrong_answers)].mean()))
    return np.array(values)


@pytest.mark.parametrize("where", ["S1", "all tokens"])
def test_a_code_set_changes_the_metric_by_what_attach_gives(page, real, model, where):
    before = files_of(real)
    app = page(real, run="mine", head="a0.h2", read="true", set=f"a0.h2@{where}=7")
    books = load_codebooks(real / "books", model)
    pairs = Run.load(real / "mine").sample_again(real / "mine", model.tokenizer, 16)
    assert len(pairs) == N
    with torch.no_grad(), attach(model, {"a0": books["a0"]}, error_term=True) as attached:
        model(torch.tensor([pairs[0].clean_tokens]))
        ids = attached.ids["a0"][0, :, 2, 0].tolist()
    strip = next(body for body in html_of(app) if "a0.h2, clean" in body)
    assert [int(code) for code in re.findall(r"<sub[^>]*>(\d+)</sub>", strip)] == ids

    role = None if where == "all tokens" else where
    assert app.selectbox(key="role of a0.h2").value == where
    assert app.selectbox(key=f"code of a0.h2 {role} clean").value == "7"
    _press(app, "Set it")
    assert not app.error
    expected = _set_by_hand(model, books, pairs, 7, 2, None if role is None else 5)  # S1 stands at 4, and BOS
    clean = _set_by_hand(model, {"a0": books["a0"]}, pairs, 7, 2, 10_000)  # nowhere: as it is
    table = _table(app, "prompts", "mean", "from", "to")
    means = dict(zip(table.prompts, table["mean"], strict=True))
    assert means["clean"] == pytest.approx(clean.mean(), abs=1e-4)
    assert means["code set"] == pytest.approx(expected.mean(), abs=1e-4)
    assert abs(means["code set"] - means["clean"]) > 1e-3 and means["random code"] != means["code set"]
    low, high = mean_interval((expected - clean)[:, None], 0)
    numbers = (wording.signed(float(value), 3) for value in ((expected - clean).mean(), low[0], high[0]))
    assert "by **{} [{}, {}]**, with a random code by".format(*numbers) in _text(app)
    assert f"({N} pairs, 95 % bootstrap intervals)" in _text(app)
    shown = _figure(app, "logit difference of every pair")["data"][2]
    assert shown["name"] == "code set"
    order = np.array(shown["x"], dtype=int) - 1
    np.testing.assert_allclose(_array(shown["y"]), expected[order], atol=1e-4)
    assert files_of(real) == before


def test_each_prompt_can_get_its_partners_code(page, real):
    app = page(real, run="mine", head="a0.h2", read="true")
    app.selectbox(key="role of a0.h2").set_value("S1").run()
    assert app.selectbox(key="code of a0.h2 S1 clean").options[0] == "its own code on the corrupt prompt"
    _press(app, "Set it")
    assert not app.error and "With its own code on the corrupt prompt at S1" in _text(app)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("99", "code 99 at a0.h2: the codebook there has 0 to 11"),
        ("<b>x", "code '<b>x': it is a whole number"),
    ],
)
def test_a_wrong_code_is_one_clear_line(page, real, code, message):
    app = page(real, run="mine", head="a0.h2", read="true", set=f"a0.h2@S1={code}")
    _press(app, "Set it")
    [error] = app.error
    assert message in re.sub(r"\\(.)", r"\1", error.value) and "<" not in re.sub(r"\\<", "", error.value)


def test_edges_are_drawn_and_listed(page, real):
    run = Run.load(real / "mine")
    app = page(real, run="mine", tab="Edges")
    figure = _figure(app, "The 2")
    names = [trace["text"] for trace in figure["data"] if trace.get("customdata")]
    assert sorted(*names) == sorted(part["site"][1:].replace(".h", ".") for part in run.members)
    lines = [trace for trace in figure["data"] if "→" in str(trace.get("hovertext"))]
    assert len(lines) == min(30, len(run.result["edges"])) == len(figure["data"]) - len(names) - 5
    table = _table(app, "from", "to", "into", "score")
    assert [tuple(row) for row in table[["from", "to", "into"]].itertuples(index=False)] == [
        (edge["from"], edge["to"], edge["into"]) for edge in run.result["edges"] if edge["score"]
    ]
    assert len(app.get("plotly_chart")) == 1


def test_a_run_is_compared_with_its_references_and_with_another_run(page, tmp_path):
    name = "ioi/smollm2-135m-instruct"
    run = make_run(references=(name,))
    run.save(tmp_path / "a")
    make_run(references=(name,), method="overlap", seed=3).save(tmp_path / "b")
    app = page(tmp_path, run="a", tab="Compared", **{"with": "b"})
    judged = run.result["recovery"][name]
    row = _table(app, "reference", "ROC AUC").iloc[0]
    assert (row.reference, row["members"]) == (name, "28 of 270")
    assert row["ROC AUC"] == pytest.approx(judged["roc_auc"])
    assert [row["from"], row["to"]] == pytest.approx(judged["interval"])
    assert row["average precision"] == pytest.approx(judged["average_precision"])
    both = app.dataframe[1].value
    assert "shared" in both.iloc[0, 3] and both.iloc[1, 0] == "Jaccard"
    against = _figure(app, f"Score of every head against its exact effect in {name}")
    assert sum(len(trace["hovertext"]) for trace in against["data"]) == 270
    scores = {h["site"]: h["score"] for h in run.result["heads"]}
    for trace in _figure(app, "Scores of every head in a")["data"]:
        np.testing.assert_allclose(_array(trace["x"]), [scores[site] for site in trace["hovertext"]])


def test_models_of_other_shapes_are_not_compared_but_said_so(page, runs):
    make_run(n_layers=3, n_heads=4, members=2).save(runs / "other")
    app = page(runs, run="small", tab="Compared", **{"with": "other"})
    [error] = app.error
    assert "only runs on models of one shape" in error.value


def test_the_report_the_table_and_the_way_to_repeat_it_are_there(page, real):
    app = page(real, run="mine", tab="Report")
    labels = [button.label for button in app.get("download_button")]
    assert labels == ["Report as HTML", "Heads as CSV"]
    assert "mine/prompts.json --model" in app.code[0].value and "--seed 0" in app.code[0].value
    assert "mine/prompts.json'" in app.code[1].value and "discover(" in app.code[1].value
    assert app.get("iframe")


def test_a_circuit_is_found_from_the_page_and_opened(page, tmp_path):
    app = page(tmp_path / "new")
    app.selectbox(key="find task").set_value("planted-induction")
    app.number_input(key="find n").set_value(N)
    app.number_input(key="find seed").set_value(2)
    _press(app, "Find")
    assert not app.error and app.selectbox(key="run").value == "planted-induction-codes"
    assert app.query_params["run"] in ("planted-induction-codes", ["planted-induction-codes"])
    folder = tmp_path / "new" / "planted-induction-codes"
    found = Run.load(folder)
    expected = discover("planted-induction", model="planted-induction", n=N, seed=2)
    assert found.result["heads"] == expected.result["heads"]
    assert found.details == json.loads(json.dumps(expected.details))
    assert (folder / "report.html").is_file() and not any((folder / name).exists() for name in PROMPTS)
    assert _metric(app, "Members") == str(len(expected.members))
    # its own model is run for another prompt; there are no codebooks of it, and the page says how to make some
    app.selectbox(key="pair").set_value("4").run()
    model = load_model("planted-induction")
    pairs = load_task("planted-induction").sample(model.tokenizer, N, seed=2)
    where = parse_site(app.selectbox(key="head").value)
    shown = _figure(app, "Attention pattern")["data"][0]
    seen = view_pair(model, pairs[3], pairs.metric).pattern("clean", where.layer, where.head)
    np.testing.assert_allclose(_array(shown["customdata"]), seen, atol=1e-5)
    app.toggle(key="read").set_value(True).run()
    assert not app.exception and "No codebooks for planted-induction" in re.sub(
        r"\\(.)", r"\1", app.info[0].value
    )
    assert app.code[0].value.endswith("--model planted-induction")
    app.toggle(key="read").set_value(False).run()
    _press(app, "Find")
    assert app.selectbox(key="run").value == "planted-induction-codes-2"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}-2"]


def test_a_circuit_is_found_from_an_uploaded_file(page, model, tmp_path):
    folder = tmp_path / "new"
    app = _with_file(page(folder), "My pairs (1).json", _prompts())
    app.selectbox(key="find method").set_value("attribution")
    app.number_input(key="find n").set_value(N)
    _press(app, "Find")
    assert not app.error and app.selectbox(key="run").value == "My-pairs-1-attribution"
    run = Run.load(folder / "My-pairs-1-attribution")
    assert (folder / "My-pairs-1-attribution" / "prompts.json").read_bytes() == _prompts()
    expected = discover(PromptFile("x.json", _prompts()), model=model, n=N, method="attribution")
    assert [part["site"] for part in run.members] == [part["site"] for part in expected.members]
    assert [path.name for path in folder.iterdir()] == ["My-pairs-1-attribution"]
    # and another of its prompts can be read
    app.selectbox(key="pair").set_value("5").run()
    pairs = run.sample_again(folder / "My-pairs-1-attribution", model.tokenizer, N)
    site = app.selectbox(key="head").value
    expected_pattern = view_pair(model, pairs[4], "logit_diff").pattern("clean", int(site[1]), int(site[-1]))
    shown = _figure(app, "Attention pattern")["data"][0]
    np.testing.assert_allclose(_array(shown["customdata"]), expected_pattern, atol=1e-5)


def _with_file(app: AppTest, name: str, data: bytes) -> AppTest:
    app.get("button_group")[0].set_value("a file of prompts").run()
    app.file_uploader(key="find file").set_value((name, data, "application/json"))
    return app


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"{nonsense", "a.json: not JSON at line 1"),
        ("<img src=x onerror=alert(1)>.json", b"[]", "<img src=x onerror=alert(1)>.json: the JSON is a list"),
        ("two\nlines.json", b"\xff", r"two↵lines.json: not UTF-8"),
        ("big.json", b" " * (LARGEST * 2**20 + 1), f"big.json has {LARGEST}.0 MB"),
        ("a.jsonl", b'{"clean": "x"}', 'a.jsonl: prompts[0] (line 1) lacks the key "corrupt"'),
        (
            "few.json",
            json.dumps({"prompts": json.loads(_prompts())["prompts"][:3]}).encode(),
            "pairs asked for",
        ),
    ],
    ids=("not JSON", "markup", "two lines", "large", "keys", "few"),
)
def test_a_bad_file_is_one_clear_line_and_nothing_is_kept(page, tmp_path, name, data, message):
    app = _with_file(page(tmp_path), name, data)
    _press(app, "Find")
    [error] = app.error
    assert message in re.sub(r"\\(.)", r"\1", error.value)
    assert "\n" not in error.value and not re.search(r"(?<!\\)<", error.value)
    assert not list(tmp_path.iterdir()) and not app.metric


def test_without_a_file_it_asks_for_one(page, tmp_path):
    app = page(tmp_path)
    app.get("button_group")[0].set_value("a file of prompts").run()
    _press(app, "Find")
    assert "no file" in app.error[0].value


def test_what_was_read_is_kept_up_to_a_number():
    kept = Kept(2)
    for name in ("a", "b", "a", "c"):
        assert kept.get(name, name.upper) == name.upper()
    assert "a" in kept and "c" in kept and "b" not in kept
    assert kept.get("a", lambda: 1 / 0) == "A"


def test_progress_weighs_stages_by_their_forward_passes():
    told = []
    progress = Progress("codes", 10, lambda share, text, behind: told.append((share, text, list(behind))))
    assert told[0][0] == 0
    with progress.stage("codes scores", 10) as advance:
        advance(10)
    with progress.stage("exact interchange", 300):
        pass
    assert told[-1][0] == pytest.approx(80 / (80 + 129 + 260)) and told[-1][2] == ["codes scores, 0 s"]
    with progress.stage("edges", 100) as advance:
        advance(100)
    assert progress.done == pytest.approx(progress.whole)


def test_names_of_runs_are_harmless():
    assert run_name("ioi", "codes") == "ioi-codes"
    assert run_name("../../etc/passwd.json", "eap") == "passwd-eap"
    assert run_name("…/ä ö.jsonl", "eap") == "prompts-eap"
    assert run_name(".hidden <b>.json", "eap") == "hidden-b-eap"


def test_choosing_another_run_shows_that_one_and_changes_the_address(page, runs):
    app = page(runs, run="small")
    app.selectbox[0].set_value("larger").run()
    assert _metric(app, "Members") == "5"
    assert app.query_params["run"] in ("larger", ["larger"])


@pytest.mark.parametrize("damage", ["truncated", "emptied", "stripped"])
def test_a_damaged_run_is_an_error_card_and_the_others_stay_reachable(page, runs, damage):
    path = runs / "small" / (DETAILS if damage == "emptied" else RESULT)
    whole = path.read_text(encoding="utf-8")
    path.write_text({"truncated": whole[:200], "emptied": "", "stripped": '{"format": 1}'}[damage])
    app = page(runs, run="small")
    assert "damaged" in app.error[0].value and not app.metric
    app.selectbox[0].set_value("larger").run()
    assert not app.error and _metric(app, "Members") == "5"
    # as the other side of a comparison it is a line too
    app = page(runs, run="larger", tab="Compared", **{"with": "small"})
    assert "damaged" in app.error[0].value and _metric(app, "Members") == "5"


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "nothing", "small/../../elsewhere"])
def test_an_address_cannot_name_a_path_outside_the_runs_folder(page, runs, name):
    shutil.copytree(runs / "larger", runs.parent / "elsewhere")
    app = page(runs, run=name, tab="Compared", **{"with": name})
    assert app.selectbox(key="run").value in ("small", "larger") and app.selectbox(key="with").value is None
    assert app.query_params["run"] in ("small", "larger", ["small"], ["larger"])
    assert set(app.selectbox(key="run").options) == {"small", "larger"}


@pytest.mark.parametrize("tab", ["Heads", "Edges", "Compared", "Report"])
def test_markup_in_a_run_is_shown_as_text(page, tmp_path, tab):
    make_run(n_layers=4, n_heads=4, members=4, mlp_members=1, evil=True).save(tmp_path / "evil")
    make_run(n_layers=4, n_heads=4, members=3, evil=True, seed=1).save(tmp_path / "other")
    app = page(tmp_path, run="evil", tab=tab, read="true", **{"with": "other"})
    shown = [element.value for element in (*app.markdown, *app.caption, *app.error, *app.info)]
    shown += [metric.value for metric in app.metric]
    assert not any(re.search(r"(?<!\\)<", text) for text in shown)
    for body in html_of(app):
        assert not re.search(r"<(?!/?(?:div|span)\b)", body)
    if tab == "Heads":
        assert r"\<\/title\>\<\/script\>" in " ".join(shown)
    for chart in app.get("plotly_chart"):
        figure = json.loads(chart.proto.spec)
        assert not re.search(
            r"<(?!/?b>|br>|extra>|/extra>)",
            json.dumps([figure["data"], figure["layout"]["xaxis"], figure["layout"]["yaxis"]]),
        )


def test_a_run_of_a_model_that_is_not_here_loads_none(page, tmp_path):
    make_run(n_layers=4, n_heads=4, members=4, model="/etc/somewhere", n_pairs=10).save(tmp_path / "a")
    app = page(tmp_path, run="a", pair="2", read="true")
    assert [error.value for error in app.error] and all("this workbench runs" in e.value for e in app.error)
    assert _metric(app, "Members") == "4"
