"""The report says what the run holds, and nothing in the run can become markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.report import render_report, write_report
from interp.report.components import Scale
from interp.report.members import member_cards
from interp.report.wording import in_plot
from interp.runs.run import Metric, Run
from tests.report.synthetic import EVIL, make_run, published

_VOID = {"meta", "input", "br"}


class _Page(HTMLParser):
    """Elements, ids, links and text of a page; an element that is closed twice or never is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


RUNS = {
    "usual": {},
    "with references": {"n_layers": 12, "n_heads": 12, "model": "gpt2", "references": published()},
    "attention only": {"n_layers": 4, "n_heads": 8, "members": 3, "mlps": False},
    "MLP members": {"n_layers": 6, "n_heads": 4, "members": 3, "mlp_members": 2},
    "no members": {"members": 0},
    "no scores per pair": {"per_pair": False},
    "one member": {"n_layers": 2, "n_heads": 2, "members": 1},
    "exact scores": {"method": "patching"},
    "markup in every text": {"evil": True, "n_tokens": 45},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_is_one_wellformed_page_without_scripts_or_requests(options):
    text = render_report(make_run(**options))
    page = _Page(text)
    assert text.startswith("<!doctype html>")
    assert not {"script", "img", "iframe", "link", "object", "embed"} & set(page.tags)
    assert not [key for key, _ in page.attributes if key.startswith("on") or key in ("src", "srcset")]
    assert all(link.startswith("#") for link in page.links)
    assert "url(" not in text and "@import" not in text
    assert (
        "nan" not in re.findall(r"[a-z]+", page.text)
        and "None" not in page.text.replace("None of the", "").split()
    )


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_every_link_leads_somewhere_and_ids_are_unique(options):
    page = _Page(render_report(make_run(**options)))
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_markup_in_tokens_stays_text():
    page = _Page(render_report(make_run(n_layers=4, n_heads=8, members=5, evil=True)))
    plain = _Page(render_report(make_run(n_layers=4, n_heads=8, members=5)))
    assert sorted(set(page.tags)) == sorted(set(plain.tags))
    assert EVIL in page.text
    assert "{{·7*7·}}" in page.text or "{{·7*7·}}</style>" in page.text
    assert "\u202e" not in page.text and "\\u202e" in page.text


def test_says_the_finding_first():
    run = make_run(members=14)
    first = run.members[0]
    page = _Page(render_report(run))
    assert f"14 of 270 heads are in the circuit for ioi. Largest: {first.site}" in page.text
    assert (
        page.text.index("14 of 270") < page.text.index("An example pair") < page.text.index("Heads by layer")
    )


def test_counts_mlps_when_they_may_be_members():
    page = _Page(render_report(make_run(n_layers=6, n_heads=4, members=3, mlp_members=2)))
    assert "3 of 24 heads and 2 of 6 MLPs are in the circuit for ioi" in page.text


def test_a_run_without_members_says_so():
    page = _Page(render_report(make_run(members=0)))
    assert "None of the 30 checked components is in a circuit for ioi" in page.text
    assert "members" not in page.ids and "edges" not in page.ids and "cards" not in page.ids


def test_every_member_has_a_row_a_node_and_a_card():
    run = make_run(members=14, mlp_members=2)
    text = render_report(run)
    page = _Page(text)
    for part in run.members:
        assert part.site in page.ids
        assert text.count(f'href="#{part.site}"') >= 3  # a row, a node in the graph, a cell in each grid


def test_shows_effects_with_interval_and_share_of_the_gap():
    run = make_run()
    first = run.members[0]
    gap = run.metric.gap
    page = _Page(render_report(run))
    effect, low, high = (f"{value:+.2f}".replace("-", "−") for value in (first.effect, first.low, first.high))
    share = f"{100 * first.effect / gap:.0f}".replace("-", "−")
    assert f"effect {effect} [{low}, {high}], {share} % of the gap" in page.text


def test_without_a_reference_it_gives_the_command_that_makes_one():
    page = _Page(render_report(make_run()))
    assert "No reference for ioi on smollm2-135m-instruct" in page.text
    assert "interp reference ioi --model smollm2-135m-instruct" in page.text


def test_with_references_it_shows_auc_interval_and_nulls_of_each():
    names = published()
    run = make_run(n_layers=12, n_heads=12, model="gpt2", references=names)
    text = render_report(run)
    for name in names:
        found = run.recovery[name]
        assert f"ROC curve against {name}" in text
        assert f"{found.roc_auc:.3f}" in text
        assert f"[{found.interval[0]:.3f}, {found.interval[1]:.3f}]" in text
        assert f"{found.nulls.layer_index:.3f}" in text


@pytest.mark.parametrize(
    ("shared", "measured", "said"),
    [
        (40, 40, "mine.safetensors: It was measured on the run’s own pairs"),
        (40, 90, "Of the run’s 40 pairs 40 are among the 90 that it was measured on."),
        (1, 90, "Of the run’s 40 pairs 1 is among the 90"),
        (0, 90, ""),
    ],
)
def test_an_own_reference_has_a_curve_and_it_is_said_if_pairs_are_shared(shared, measured, said):
    own = load_reference("ioi/smollm2-135m-instruct")
    run = make_run(references=(own.name,), n_pairs=40)
    judged = run.recovery.popitem()[1]
    run.recovery = {"mine.safetensors": replace(judged, shared_pairs=shared, measured_pairs=measured)}
    run.settings.reference = "mine.safetensors"
    text = render_report(run.model_copy(update={"own_reference": own}))
    assert "ROC curve against mine.safetensors" in text
    assert said in text if said else "it was measured on" not in text.lower()
    assert "ROC curve" not in render_report(run)  # as of a run that did not keep it


def test_a_reference_that_is_not_installed_keeps_its_numbers_but_has_no_curve():
    run = make_run(n_layers=12, n_heads=12, model="gpt2", references=published()[:1])
    run.recovery = {"mine/elsewhere": run.recovery.popitem()[1]}
    text = render_report(run)
    assert "mine/elsewhere" in text and "ROC curve against" not in text


def test_names_what_limits_the_findings():
    page = _Page(render_report(make_run()))
    assert "Dropped because of this model’s tokenizer: 3 names." in page.text
    assert "Names of several tokens are left out." in page.text
    assert "One component at a time is replaced." in page.text
    assert "MLPs stay live" in page.text


def test_a_run_without_details_still_has_its_numbers():
    run = make_run()
    for part in run.members:
        part.writes = part.codes = part.direct = None
    run.examples, run.arrays = [], {}
    page = _Page(render_report(run))
    assert "This run holds no details of this head." in page.text
    assert "example" not in page.ids


def test_write_report_replaces_only_the_report(tmp_path):
    run = make_run(n_layers=4, n_heads=4, members=2)
    folder = run.save(tmp_path / "run", report="old")
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == render_report(Run.load(folder))
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["run.json", "scores.safetensors", "heads.csv", "report.html"]
    )


def test_write_report_refuses_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_quotation_marks_reach_a_plot_as_they_are():
    """Plotly knows no &quot; and would show it letter by letter."""
    assert in_plot('<b>"it\'s" & so') == '&lt;b&gt;"it\'s" &amp; so'


def test_a_run_without_a_gap_or_with_markup_in_its_provenance_is_still_a_page():
    run = make_run()
    run.metric = Metric(clean=1.0, corrupt=1.0, name="m")
    run.provenance.model.source = "a <b>machine</b>"
    page = _Page(render_report(run))
    assert "of a gap of 0" in page.text and "a <b>machine</b>" in page.text


def test_a_members_card_says_which_codes_are_of_clean_prompts_alone_and_what_it_raises():
    run = make_run(n_layers=4, n_heads=4, members=1)
    card = member_cards(run, Scale.of(run))[0]
    codes = run.component(card["site"]).codes
    clean, corrupt = dict(codes.clean), dict(codes.corrupt)
    for row in card["codes"]["rows"]:
        assert row["only_clean"] == (row["code"] not in corrupt)
        assert row["clean"] == pytest.approx(100 * clean.get(row["code"], 0.0))
    assert [part["name"] for part in card["writes"]] == ["raises most", "lowers most"]
    assert card["writes"][0]["tokens"][0][1].startswith("+") and card["writes"][1]["tokens"][0][1].startswith(
        "−"
    )
