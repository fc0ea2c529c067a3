"""The report says what the run holds, and nothing in the run can become markup."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from interp.circuits.circuit import CodesUsed
from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.report.page import codes_used, render_report, write_report
from interp.report.validity import card_rows
from interp.report.wording import in_plot
from interp.runs.run import Run
from tests.report.synthetic import EVIL, make_card, make_run, published

_VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Elements, ids, links, scripts and text of a page; an element that is closed twice or never is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self.stack: list[tuple[str, str | None]] = []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag not in _VOID:
            self.stack.append((tag, attributes.get("type")))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        inside, kind = self.stack[-1] if self.stack else ("", None)
        if inside == "script":
            self.scripts.append((kind, data))
        elif inside != "style":
            self.text += data

    @property
    def figures(self) -> list[dict]:
        """What the page's figures are drawn from."""
        return [json.loads(data) for kind, data in self.scripts if kind == "application/json"]

    def check(self) -> None:
        """Links lead to parts of the page, and nothing runs but plotly and the script that draws: the policy names
        both by hash."""
        assert len(self.ids) == len(set(self.ids)) and set(self.links) <= {f"#{identifier}" for identifier in self.ids}
        policy = next(value for _, value in self.attributes if value and "script-src" in value)
        named = re.search("script-src ([^;]*)", policy)[1].split()
        [packed] = [data for kind, data in self.scripts if kind == "text/plain"]
        plotly = gzip.decompress(base64.b64decode(packed)).decode()
        assert plotly == get_plotlyjs()
        running = [data for kind, data in self.scripts if kind is None]
        kinds = {kind for kind, _ in self.scripts}
        assert len(running) == 1 and kinds <= {None, "text/plain", "application/json"}
        hashes = [hashlib.sha256(text.encode()).digest() for text in (running[0], plotly)]
        assert named == [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes]
        assert "default-src 'none'" in policy
        assert not [key for key, _ in self.attributes if key.startswith("on") or key in ("src", "srcset")]


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
def test_is_one_wellformed_page_that_runs_nothing_of_the_run_and_asks_for_nothing(options):
    text = render_report(make_run(**options))
    page = Page(text)
    assert text.startswith("<!doctype html>")
    page.check()
    assert not {"img", "iframe", "link", "object", "embed"} & set(page.tags)
    assert "nan" not in re.findall(r"[a-z]+", page.text)
    assert "None" not in page.text.replace("None of the", "").split()


def test_markup_of_a_run_stays_text():
    shape = {"n_layers": 4, "n_heads": 8, "members": 5}
    evil = make_run(**shape, evil=True)
    evil.provenance.model.source = "a <b>machine</b>"
    evil.heads[0].roles = {EVIL: 0.9}
    page, plain = (Page(render_report(run)) for run in (evil, make_run(**shape)))
    assert sorted(set(page.tags)) == sorted(set(plain.tags))
    page.check()
    drawn = json.dumps(page.figures)
    assert "<script" not in drawn and "<img" not in drawn
    assert EVIL in page.text and "a <b>machine</b>" in page.text
    assert "{{·7*7·}}" in page.text or "{{·7*7·}}</style>" in page.text
    assert "\u202e" not in page.text and "\\u202e" in page.text
    # plotly knows no &quot; and would show it letter by letter
    assert in_plot('<b>"it\'s" & so') == '&lt;b&gt;"it\'s" &amp; so'


def test_every_member_has_a_row_a_node_and_a_card():
    run = make_run(n_layers=6, n_heads=4, members=3, mlp_members=2)
    page = Page(render_report(run))
    assert "3 of 24 heads and 2 of 6 MLPs are in the circuit for ioi" in page.text
    for part in run.members:
        assert part.site in page.ids and f"#{part.site}" in page.links
        drawn = [figure for figure in page.figures if f'["{part.site}"' in json.dumps(figure)]
        assert len(drawn) == 2  # the grid and the graph


def test_with_references_it_shows_auc_interval_and_nulls_of_each():
    names = published()
    run = make_run(n_layers=12, n_heads=12, model="gpt2", references=names)
    text = render_report(run)
    for name, attributes in run.recovery.items():
        low, high = attributes.interval
        numbers = (f"{attributes.roc_auc:.3f}", f"[{low:.3f}, {high:.3f}]", f"{attributes.nulls.layer_index:.3f}")
        assert all(shown in text for shown in (f"ROC curve against {name}", *numbers))
    # one that is not installed keeps its numbers but has no curve
    run.recovery = {"mine/elsewhere": run.recovery[names[0]]}
    text = render_report(run)
    assert "mine/elsewhere" in text and "ROC curve against" not in text


def test_an_own_reference_has_a_curve_and_it_is_said_that_pairs_are_shared():
    reference = load_reference("ioi/smollm2-135m-instruct")
    run = make_run(references=(reference.name,), n_pairs=40, members=1)
    judged = run.recovery.popitem()[1]
    run.recovery = {"mine.safetensors": replace(judged, shared_pairs=40, measured_pairs=90)}
    run.settings.reference = "mine.safetensors"
    text = render_report(run.model_copy(update={"own_reference": reference}))
    assert "ROC curve against mine.safetensors" in text
    assert "Of the run’s 40 pairs 40 are among the 90 that it was measured on." in text
    assert "ROC curve" not in render_report(run)  # as of a run that did not keep it


def test_the_card_of_a_run_is_a_figure_and_a_table_and_absent_where_it_was_not_made():
    run = make_run(n_layers=4, n_heads=4, members=3)
    assert "sceptic" not in render_report(run).partition('id="next"')[0]
    run.validity = make_card(evil=True)
    page = Page(render_report(run))
    page.check()
    assert all(cell in page.text for row in card_rows(run.validity) for cell in row)
    assert "10 random circuits: mean 2.0 %, largest 7.0 %" in page.text and "seed 2 (most faithful)" in page.text
    [drawn] = [figure for figure in page.figures if "yaxis2" in figure["layout"]]
    assert drawn["data"][0]["x"] == [1, 3, 8, 16]


def test_write_report_replaces_only_the_report(tmp_path):
    folder = make_run(n_layers=4, n_heads=4, members=2).save(tmp_path / "run", report="old")
    before = {path.name for path in folder.iterdir()}
    path = write_report(folder)
    assert path == folder / "report.html" and {path.name for path in folder.iterdir()} == before
    assert path.read_text(encoding="utf-8") == render_report(Run.load(folder))
    with pytest.raises(InputError, match="not a run folder"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_codes_of_a_member_have_their_shares_and_those_of_single_prompts_are_only_counted():
    run = make_run(n_layers=4, n_heads=4, members=1, n_pairs=30)
    [part] = run.members
    clean, corrupt = dict(part.codes.clean), dict(part.codes.corrupt)
    for code, *shares in codes_used(part.codes, run.n_pairs)["rows"]:
        assert shares == [clean.get(code, 0.0), corrupt.get(code, 0.0)]
    # codes of single prompts are told by their number alone; a name stands at two of a prompt's five positions
    part.codes = CodesUsed(clean=[(7, 0.5), (3, 3 / 150), (9, 2 / 150), (1, 1 / 150)], corrupt=[(7, 1.0)])
    codes = codes_used(part.codes, run.n_pairs)
    assert [code for code, *_ in codes["rows"]] == [7, 3]
    assert codes["single"] == 2 and codes["unique"] == 1 and codes["unique_share"] == pytest.approx(3 / 150)
