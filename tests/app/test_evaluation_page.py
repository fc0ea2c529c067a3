"""The page *Evaluation*: it shows what benches, evaluations and reproductions wrote, intervals and controls too."""

import json
import re
import shutil
from pathlib import Path

import pytest

from interp.app.evaluation import sources
from interp.app.widgets.tokens import plain
from interp.bench.plan import whole_record, write_record
from interp.bottlenecks.store import Codebooks
from interp.evaluation.codebook_quality import CONTROLS, quality_of_folder
from interp.files import write_json
from interp.report.wording import method_name
from tests.app.conftest import error_of, files_of, plot_of, text_of
from tests.report.synthetic import EVIL, make_bench

METHODS, CODEBOOKS, STEERING, MACHINE = "Methods", "Codebooks", "Steering", "Finite-state machine"
FILE = {METHODS: "table/bench.json", CODEBOOKS: "books/quality.json"}


@pytest.fixture(scope="module")
def measured(runs_with_books, model, tmp_path_factory) -> Path:
    """A runs folder with codebooks that were evaluated and a bench."""
    folder = tmp_path_factory.mktemp("measured")
    shutil.copytree(runs_with_books / "books", folder / "books")
    opened = Codebooks.from_pretrained(folder / "books")
    quality = quality_of_folder(model, opened, ["stdlib"], ks=[1, 2], n_tokens=256, control_blocks=4)
    write_json(folder / FILE[CODEBOOKS], quality)
    write_json(folder / FILE[METHODS], make_bench())
    return folder


@pytest.fixture
def runs(measured, tmp_path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "runs"))


@pytest.fixture
def page(open_page):
    return lambda runs, part, **address: open_page("evaluation", runs, show=part, **address)


def test_a_bench_is_shown_with_ranges_differences_and_controls(page, runs):
    before = files_of(runs)
    app = page(runs, METHODS, bench="table")
    assert not app.error and app.selectbox(key="scope").value == "ioi on smollm2-135m-instruct"
    table = app.dataframe[0].value.set_index(["method", "pairs"])
    result = json.loads((runs / "table" / "bench.json").read_text())
    assert len(table) == len(result["table"])
    for row in result["table"]:
        shown, value = table.loc[method_name(row["method"]), row["n"]], row["average_precision"]
        assert shown["value"] == pytest.approx(value["mean"])
        assert shown["least, largest seed"] == f"{value['least']:.3f}, {value['largest']:.3f}"
        assert shown["forward passes"] == row["forwards"]["mean"]
    assert table["value"].is_monotonic_decreasing
    assert table["kind"].to_dict() == {
        key: {"exact patching": "baseline", "random": "control"}.get(key[0], "method") for key in table.index
    }
    assert (table["difference"] == "–").all()  # of this metric none was compared
    assert "too dear" in text_of(app) and "interp bench --tasks ioi" in app.code[-1].value
    assert files_of(runs) == before


def test_codebooks_are_shown_with_what_they_cost_and_what_controls_cost(page, runs):
    app = page(runs, CODEBOOKS, quality="books")
    quality = json.loads((runs / "books" / "quality.json").read_text())
    [text] = quality["texts"]
    rows = {row["condition"]: row for row in text["rows"]}
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics["CE rise, k = 2"] == f"{rows['codes k=2']['ce_increase']:+.3f}".replace("-", "−")
    kls = [f"{rows[name]['kl']:.3f}" for name in ("codes k=1", "codes k=2")]
    assert metrics["KL from the plain model"] in kls
    table = app.dataframe[1].value.set_index("condition")
    assert set(table.index) == {"plain", "codes k=1", "codes k=2", *CONTROLS}
    assert set(table.index[table["kind"] == "control"]) == set(CONTROLS)
    for name, row in rows.items():
        assert table.loc[name, "CE"] == f"{row['ce']:.3f}"
    bars = plot_of(app)["data"][0]
    assert dict(zip(bars["y"], bars["x"], strict=True)) == pytest.approx(
        {name: row["ce_increase"] for name, row in rows.items() if name != "plain"}
    )
    sites = text["usage"]["1"]["variance_explained_sites"]
    heads, mlps = plot_of(app, 1)["data"]
    assert [*heads["y"], *mlps["y"]] == pytest.approx([sites[s] for s in ("a0", "a1", "m0", "m1")])


def test_steering_is_shown_with_rates_differences_and_controls(page, tmp_path):
    app = page(tmp_path, STEERING)
    assert not app.error and not app.warning and app.selectbox(key="steering").value == "seven topics"
    table = app.dataframe[0].value.set_index("arm")
    # the README's numbers
    assert table.loc["codes", "rate [95 %]"] == "96.7 % [95.7, 97.7]"
    assert table.loc["mean difference, residual", "codes minus it [95 %]"] == "+23.6 [+21.3, +25.9]"
    drawn = {trace["name"]: trace for trace in plot_of(app)["data"]}
    assert set(drawn) == set(table.index) >= {"codes", "gated codes", "wrong topic"}
    by_topic = app.dataframe[1].value.set_index("arm")
    assert by_topic.loc["codes", "rate [95 %]"].startswith(f"{100 * drawn['codes']['x'][0]:.0f} %")
    topics = plot_of(app)["layout"]["yaxis"]["ticktext"]
    app.get("button_group")[1].set_value(topics[-1]).run()
    assert not app.exception and not by_topic.equals(app.dataframe[1].value.set_index("arm"))


def test_cells_of_other_settings_are_left_out_and_a_damaged_one_is_a_card(page, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(sources.STEERINGS["seven topics"], tmp_path / "steering"))
    monkeypatch.setattr(sources, "STEERINGS", {"mine": folder})

    def topics(app) -> int:
        return app.dataframe[0].value.set_index("arm").loc["codes", "topics"]

    path = folder / "baby--codes.json"
    settings, result = whole_record(path)
    for other in ({"made_with": "other books"}, {"config": {**settings["config"], "times": 3.0}}):
        write_record(path, {**settings, **other}, result)
        app = page(tmp_path, STEERING)
        assert "1 cell of that folder was" in app.warning[0].value and topics(app) == 6
    changed = {**json.loads(path.read_text()), "result": {**result, "dose": 0.0}}  # by hand
    for damaged in ("{", json.dumps(changed)):
        path.write_text(damaged)
        app = page(tmp_path, STEERING)
        assert "is damaged" in error_of(app) and not app.dataframe


def test_the_replication_of_the_repository_is_a_picture_with_what_was_published(page, tmp_path):
    app = page(tmp_path, MACHINE)
    rows = json.loads(sources.MACHINE.read_text())
    drawn = {trace["name"]: trace for trace in plot_of(app)["data"]}
    for arm in ("codebooks", "no codebooks", "untrained k-means", "random codes"):
        assert drawn[arm]["x"] == pytest.approx([row["mean"] for row in rows if row["arm"] == arm])
    published = [row["published"] for row in rows if row["arm"] == "codebooks"]
    assert drawn["codebooks, published"]["x"] == published == [0.4527, 0.6365, 0.88, 0.975]


def test_a_damaged_picture_is_a_card_and_without_a_checkout_there_is_none(page, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MACHINE", tmp_path / "summary.json")
    assert MACHINE not in page(tmp_path, METHODS).get("button_group")[0].options
    for text in ("", "{", "{}", '[{"arm": 1}]'):
        (tmp_path / "summary.json").write_text(text)
        assert "damaged" in error_of(page(tmp_path, MACHINE))


@pytest.mark.parametrize("damage", ["truncated", "no rows", "words for numbers", "a link"])
@pytest.mark.parametrize("part", FILE)
def test_a_damaged_file_is_a_card_and_the_rest_goes_on(page, runs, part, damage):
    path = runs / FILE[part]
    whole = path.read_text(encoding="utf-8")
    if damage == "a link":
        path.symlink_to(path.rename(runs.parent / path.name))
    else:
        damaged = {"truncated": whole[: len(whole) // 2], "no rows": "{}"}
        path.write_text(damaged.get(damage, whole.replace(": 0.", ': "x0.').replace(": 0.", "")))
    app = page(runs, part, bench="table")
    message = "is a link to another place" if damage == "a link" else "damaged"
    [error] = app.error
    assert message in error.value
    app.get("button_group")[0].set_value(CODEBOOKS if part != CODEBOOKS else METHODS).run()
    assert not app.exception and not app.error and app.dataframe


def test_no_file_outside_the_runs_folder_is_opened(page, runs):
    write_json(runs.parent / "x" / "bench.json", make_bench(("attribution",)))
    (runs / "linked").symlink_to(runs.parent / "x")
    for name in ("../x", "/etc/passwd", "table/../../x", "linked"):
        app = page(runs, METHODS, bench=name)
        assert app.selectbox(key="bench").value == "table" and not app.error
        assert "linked" not in app.selectbox(key="bench").options


def test_markup_in_names_is_text(page, runs):
    quality = json.loads((runs / FILE[CODEBOOKS]).read_text())
    quality["texts"][0]["spec"] = "![x](https://example.org)"
    write_json(runs / FILE[CODEBOOKS], quality)
    app = page(runs, CODEBOOKS, quality="books")
    texts = app.get("button_group")[1]
    assert texts.options == [plain("![x](https://example.org)")]
    assert texts.value == "![x](https://example.org)" and not app.error
    evil = "<img src=x onerror=alert(1)> **b**"
    bench = make_bench((EVIL, "attribution"), model=EVIL, tasks=(EVIL,))
    write_json(runs / evil / "bench.json", bench)
    app = page(runs, METHODS, bench=evil)
    assert app.selectbox(key="bench").value == evil
    drawn = json.dumps(plot_of(app))
    assert "<script" not in drawn and "<img" not in drawn
    for element in (*app.markdown, *app.caption):
        assert not re.search(r"(?<!\\)[<*]", element.value)
