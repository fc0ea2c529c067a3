"""The page *Circuit*: what it shows is what the run and the library say, whatever it is given."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.report import wording
from interp.report.circuit_figures import EXPONENT, Scale
from interp.runs.folder import RESULT, pairs_of
from interp.runs.run import Run
from tests.app.circuit.conftest import N, figure_of, metric_of
from tests.app.conftest import array_of, asked, html_of, table_of, text_of, unescaped
from tests.report.synthetic import make_card, make_run


def test_the_grid_holds_the_runs_scores_and_marks_its_members(page, runs):
    run = Run.load(runs / "small")
    app = page(runs, run="small")
    assert app.selectbox(key="run").value == "small" and not app.error
    assert metric_of(app, "Members") == "3" and metric_of(app, "Pairs") == "10"
    colours, members, points = figure_of(app, "Score of every head")["data"]
    scores = np.zeros((4, 4))
    for head in run.heads:
        scores[head.head, head.layer] = head.score
    expected = np.sign(scores) * (abs(scores) / abs(scores).max()) ** EXPONENT
    np.testing.assert_allclose(array_of(colours["z"]), expected, atol=1e-6)
    sites = [site for site, _turn in points["customdata"]]
    assert sites == [head.site for head in run.heads]
    assert len(array_of(members["x"])) == 3 * 6
    assert points["selectedpoints"] == [sites.index(run.members[0].site)]
    gap = run.metric.clean - run.metric.corrupt
    effects = {part.site: part.effect for part in run.heads if part.effect is not None}
    written = {site: text for site, text in zip(sites, points["text"], strict=True) if text}
    assert written == {site: wording.number(100 * effect / gap, 0) for site, effect in effects.items()}
    table = table_of(app, "site", "effect", "share of gap")
    assert list(table.site) == [part.site for part in run.members]
    np.testing.assert_allclose(table.effect, [part.effect for part in run.members])


def test_a_stored_head_shows_what_the_run_holds_and_runs_nothing(page, runs):
    run = Run.load(runs / "small")
    scale = Scale.of(run)
    app = page(runs, run="small")
    for part in run.members:
        app.selectbox(key="head").set_value(part.site).run()
        assert not app.exception and not app.error
        effect = [wording.signed(value, scale.places) for value in (part.effect, part.low, part.high)]
        assert "effect {} [{}, {}]".format(*effect) in text_of(app)
        pattern = figure_of(app, f"Attention pattern of {part.site}")["data"][0]
        np.testing.assert_allclose(array_of(pattern["customdata"]), run.pattern(part.site))
        bars = next(body for body in html_of(app) if "raises most" in body)
        tokens = [html.unescape(token) for token in re.findall('title="([^"]*)"', bars)][:8]
        assert tokens == [wording.token(token, 18) for token, _ in part.writes.top]
        assert asked(app, "head") == part.site
    # the run is of a model that this workbench does not have: everything above came from the run
    app.selectbox(key="pair").set_value("2").run()
    assert not app.exception and not app.get("plotly_chart")[1:]


def test_what_is_chosen_stands_in_the_address_and_is_read_from_it(page, real):
    run = Run.load(real / "mine")
    other = next(head.site for head in run.heads if not head.in_circuit)
    app = page(real, run="mine", head=other, pair="2", side="corrupt")
    assert app.selectbox(key="head").value == other and app.selectbox(key="pair").value == "2"
    assert f"**{other}** · not a member" in text_of(app)
    assert figure_of(app, f"Attention pattern of {other} on the corrupt prompt")
    app = page(real, run="mine", head="a9.h9", pair="99")
    assert app.selectbox(key="head").value == run.members[0].site and app.selectbox(key="pair").value == "1"


def test_a_head_on_a_prompt_that_the_run_does_not_hold_is_read_from_the_model(page, real, model):
    app = page(real, run="mine", head="a1.h3", pair="3", side="corrupt")
    run = Run.load(real / "mine")
    pair = pairs_of(run, real / "mine", model.tokenizer, N)[2]
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([pair.corrupt_tokens]))
    pattern = cache["blocks.1.attn.hook_pattern"][0, 3]
    shown = figure_of(app, "Attention pattern of a1.h3 on the corrupt prompt")["data"][0]
    np.testing.assert_allclose(array_of(shown["customdata"]), pattern, atol=1e-5)
    # by hand: the head's part of the final residual stream, through the RMS norm of the whole, to the logits
    written = cache["blocks.1.attn.hook_z"][0, -1, 3] @ model.blocks[1].attn.W_O[3]
    resid = cache["blocks.1.hook_resid_post"][0, -1]
    added = (written / resid.pow(2).mean().sqrt() * model.ln_final.weight) @ model.W_U
    right, wrong = (float(added[list(ids)].mean()) for ids in (pair.answers, pair.wrong_answers))
    added_to = [wording.signed(value, 3) for value in (right, wrong, right - wrong)]
    edges = "adds **{}** to the answer G and **{}** to the wrong m: **{}** to their difference"
    assert edges.format(*added_to) in text_of(app)
    metric = float(logits[0, -1, pair.answers[0]] - logits[0, -1, pair.wrong_answers[0]])
    assert f"metric here is {wording.signed(metric, 3)}" in text_of(app)
    bars = next(body for body in html_of(app) if "raises most" in body)
    largest = max(float(text) for text in re.findall(r">\+([\d.]+)<", bars))
    assert largest == pytest.approx(float(added.max()), abs=0.006)


def test_a_run_is_compared_with_its_references_and_with_another_run(page, tmp_path):
    name = "ioi/smollm2-135m-instruct"
    run = make_run(references=(name,))
    run.save(tmp_path / "a")
    make_run(references=(name,), method="overlap", seed=3).save(tmp_path / "b")
    app = page(tmp_path, run="a", tab="Compared", **{"with": "b"})
    judged = run.recovery[name]
    row = table_of(app, "reference", "ROC AUC").iloc[0]
    assert (row.reference, row["members"]) == (name, "28 of 270")
    shown = [row[name] for name in ("ROC AUC", "from", "to", "average precision")]
    assert shown == pytest.approx([judged.roc_auc, *judged.interval, judged.average_precision])
    against = figure_of(app, f"Score of every head against its exact effect in {name}")
    assert sum(len(trace["hovertext"]) for trace in against["data"]) == 270
    scores = {h.site: h.score for h in run.heads}
    for trace in figure_of(app, "Scores of every head in a")["data"]:
        np.testing.assert_allclose(array_of(trace["x"]), [scores[site] for site in trace["hovertext"]])


@pytest.mark.parametrize("damage", ["truncated", "link"])
def test_a_damaged_run_is_an_error_card_and_the_others_stay_reachable(page, runs, damage):
    path = runs / "small" / RESULT
    edges = "damaged"
    if damage == "link":
        path.symlink_to(path.rename(runs.parent / path.name))
        edges = f"small/{path.name} is a link to another place"
    else:
        path.write_bytes(path.read_bytes()[:200])
    app = page(runs, run="small")
    assert edges in unescaped(app.error[0].value) and not app.metric
    app.selectbox(key="run").set_value("larger").run()
    assert not app.error and metric_of(app, "Members") == "5"
    # as the other side of a comparison it is a line too
    app = page(runs, run="larger", tab="Compared", **{"with": "small"})
    assert edges in unescaped(app.error[0].value) and metric_of(app, "Members") == "5"


def test_prompts_that_are_a_link_to_another_place_are_not_read(page, real, tmp_path):
    runs = Path(shutil.copytree(real, tmp_path / "runs"))
    page(runs, run="mine")  # the run was read before
    prompts = runs / "mine" / "prompts.json"
    prompts.symlink_to(prompts.rename(tmp_path / "prompts.json"))
    app = page(runs, run="mine", pair="2")
    assert "mine/prompts.json is a link to another place" in unescaped(app.error[0].value)


@pytest.mark.parametrize("tab", ["Heads", "Edges", "Validity", "Compared", "Report"])
def test_markup_in_a_run_is_shown_as_text(page, tmp_path, tab):
    run = make_run(n_layers=4, n_heads=4, members=4, mlp_members=1, evil=True)
    run.validity = make_card(evil=True)
    run.save(tmp_path / "evil")
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
        drawn = json.dumps([figure["data"], figure["layout"]["xaxis"], figure["layout"]["yaxis"]])
        assert not re.search(r"<(?!/?b>|br>|extra>|/extra>)", drawn)


@pytest.mark.parametrize("other", ["/etc/somewhere", "gemma-3-270m", None])
def test_a_run_of_a_model_that_is_not_here_loads_none_and_is_no_error(page, tmp_path, monkeypatch, other):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    make_run(n_layers=4, n_heads=4, members=4, model=other, n_pairs=10).save(tmp_path / "a")
    app = page(tmp_path, run="a", pair="2", read="true")
    reason = "this workbench runs" if other else "in memory"
    assert app.info and all(reason in info.value for info in app.info)
    assert not app.error
    assert metric_of(app, "Members") == "4"
