"""An index holds what the model's codes are, however often the build was killed."""

import contextlib
import itertools
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from interp.codesearch import CodeIndex, build, build_index, build_parts, search_regex
from interp.codesearch.build import WORK
from interp.codesearch.firing_stats import N_TOP
from interp.codesearch.index import MANIFEST
from interp.codesearch.layout import BLOCK
from interp.errors import InputError
from interp.executor import SERIAL, Shard, Workers
from interp.models import hooked
from interp.text import load_text
from tests.codesearch.conftest import make_books, save_books
from tests.command_line import tree


@pytest.fixture(scope="module")
def expected(model, text, books) -> dict[str, np.ndarray]:
    """[token, k] of every book, by attaching them."""
    with torch.no_grad(), attach(model, books, error_term=True) as attached:
        model(text.tokens)
    ids_by_book = {}
    for site, codes in attached.codes.items():
        ids = codes.ids.masked_fill(codes.values == 0, -1).flatten(0, 1).numpy()
        if ids.ndim == 2:
            ids_by_book[site] = ids
        else:
            letter = "h" if site.startswith("a") else "g"
            ids_by_book |= {f"{site}.{letter}{i}": ids[:, i] for i in range(ids.shape[1])}
    return ids_by_book


def test_ids_counts_and_positions_are_those_of_the_attached_model(index, expected):
    assert sorted(book.name for book in index.books) == sorted(expected)
    assert index.n_tokens == 48 * 40 and index.n_tokens % BLOCK  # the last block is not full
    for i, book in enumerate(index.books):
        ids = index.ids.rows(i, np.arange(index.n_tokens)).astype(int)
        ids[ids == book.n_codes] = -1
        for ours, theirs in zip(ids.tolist(), expected[book.name].tolist(), strict=True):
            assert set(ours) - {-1} == set(theirs) - {-1}
            assert len(set(ours) - {-1}) == sum(code >= 0 for code in ours)  # each code once
        for code in range(book.n_codes):
            tokens = np.flatnonzero((expected[book.name] == code).any(1))
            assert index.count(book.name, code) == len(tokens)
            np.testing.assert_array_equal(index.positions(book.name, code), tokens)


def test_the_best_contexts_are_those_of_the_highest_margin_and_similarity(model, text, books, index):
    """Against the definition, written out for each way of choosing codes."""
    seen = {}
    hooks = {"blocks.0.attn.hook_z": "a0", "blocks.0.hook_mlp_out": "m0"}
    noted = {name: lambda x, site=site: seen.update({site: x.clone()}) for name, site in hooks.items()}
    with torch.no_grad(), hooked(model, noted):
        model(text.tokens)
    head, codes = seen["a0"][:, :, 2].flatten(0, 1), books["a0"].codes[2]  # matching pursuit
    taken: dict[int, list[tuple[float, float]]] = {code: [] for code in range(len(codes))}
    for token, x in enumerate(head):
        for code in index.ids.rows(2, np.array([token]))[0].tolist():
            if code < len(codes):
                cosine = cosine_similarity(x, codes, dim=-1)
                code_cosine = cosine[code].item()
                cosine[code] = -2
                taken[code].append((code_cosine - cosine.max().item(), code_cosine))
                x = x - codes[code]
    _agree(index, "a0.h2", taken)

    # the three most similar of the second half
    half, codes = seen["m0"].flatten(0, 1)[:, 12:], books["m0"].codes[1]
    taken = {code: [] for code in range(len(codes))}
    for x in half:
        best = cosine_similarity(x, codes, dim=-1).topk(4)
        for code, similarity in zip(best.indices[:3].tolist(), best.values[:3].tolist(), strict=True):
            taken[code].append((similarity - best.values[3].item(), similarity))
    _agree(index, "m0.g1", taken)


def _agree(index, book, taken):
    """``taken``: margin and similarity of every firing of each code."""
    for code, every in taken.items():
        on = set(index.positions(book, code).tolist())
        for column, by in enumerate(("margin", "similarity")):
            top = index.top(book, code, by)
            ours = getattr(top, by)
            wanted = sorted((pair[column] for pair in every), reverse=True)[:N_TOP]
            assert list(ours) == sorted(ours, reverse=True)
            np.testing.assert_allclose(ours, wanted, atol=2e-3)
            assert len(set(top.tokens.tolist())) == len(wanted) and set(top.tokens.tolist()) <= on
            assert (top.similarity >= top.margin - 1.001).all() and (top.similarity <= 1.001).all()


def test_histograms_count_every_firing_and_a_sample_of_the_rest(index):
    for book in index.books:
        for code in (0, 7):
            shown = index.similarities(book.name, code)
            count = index.count(book.name, code)
            assert shown.fired.sum() == pytest.approx(count, rel=0.1, abs=1)
            assert shown.silent.sum() == pytest.approx((index.n_tokens - count) / 16, rel=0.3)


class _KilledError(Exception):
    pass


def _killed_after(steps):
    """A stage that ends the process after so many reports of progress."""

    @contextlib.contextmanager
    def stage(_name, _total):
        count = iter(range(steps))

        def done(_n, _note=""):
            if next(count, None) is None:
                raise _KilledError

        yield done

    return stage


@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
def test_a_killed_build_goes_on_to_the_same_bytes(model, text, books, index, tmp_path, save_seconds):
    given = (model, books, text, tmp_path / "new")
    for steps in (2, 3):
        with pytest.raises(_KilledError):
            build_index(*given, batch_size=8, save_seconds=save_seconds, stage=_killed_after(steps))
        with pytest.raises(InputError, match="not finished; the same build command goes on"):
            CodeIndex.open(tmp_path / "new")
    build_index(*given, batch_size=8, save_seconds=save_seconds)
    assert tree(tmp_path / "new") == tree(index.folder)


@pytest.fixture
def copy(index, tmp_path) -> Path:
    """The index's folder, for a test to damage."""
    return Path(shutil.copytree(index.folder, tmp_path / "copy"))


def _change(folder: Path, without: str = "", **changed) -> None:
    """Other values in the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changed
    manifest.pop(without, None)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_finished_build_is_at_once_done_and_another_is_refused(model, text, books, index, copy, tiny_model):
    before = tree(copy)
    assert build_index(model, books, text, copy).n_tokens == index.n_tokens
    with pytest.raises(InputError, match="holds an index of another error_term .True, not False"):
        build_index(model, books, text, copy, error_term=False)
    other = make_books()
    other["r1"].codes += 1
    with pytest.raises(InputError, match="holds an index of another books .fingerprint"):
        build_index(model, other, text, copy)
    with pytest.raises(InputError, match="was made with other codebooks"):
        CodeIndex.open(copy, other)
    index.check_books(dict(reversed(books.items())))
    with pytest.raises(InputError, match="is an index of .* not of"):
        index.check_model(tiny_model("gpt2"))
    assert tree(copy) == before
    fewer = {site: book.with_k(1) if site == "a0" else book for site, book in books.items()}
    with pytest.raises(InputError, match="holds an index of another books .configs.a0.k 2, not 1"):
        build_index(model, fewer, text, copy)
    with pytest.raises(InputError, match="was made with another a0 .k 2, not 1"):
        CodeIndex.open(copy, fewer)


def _broken(folder: Path, name: str, how: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if how != "gone":
        (folder / name).write_bytes(whole[:-7] if how == "cut" else b"\xff" * len(whole))


def _documents(folder: Path, *starts: int) -> None:
    np.save(folder / "documents.npy", np.array(starts, np.int64))
    stored = json.loads((folder / MANIFEST).read_text())["bytes"]
    _change(folder, bytes=stored | {"documents.npy": (folder / "documents.npy").stat().st_size})


BROKEN = itertools.product(("ids.npy", "tokens.npy", "lists.npy", MANIFEST), ("cut", "gone", "garbage"))
FALLS = "documents.npy is damaged: it does not rise"
DAMAGE = [
    *(pytest.param(_broken, names, {}, None, id=" ".join(names)) for names in BROKEN),
    (_change, (), {"context": 37}, "no whole blocks of 37"),
    *((_documents, starts, {}, FALLS) for starts in ((1, 5), (0, 5, 5), (0, 10**6))),
]


@pytest.mark.parametrize(("damage", "names", "values", "message"), DAMAGE)
def test_damage_is_one_clear_line(copy, damage, names, values, message):
    damage(copy, *names, **values)
    with pytest.raises(InputError, match=message) as error:
        CodeIndex.open(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="no code index"):
        CodeIndex.open(copy.parent)


def test_ids_out_of_range_are_called_damage(copy):
    raw = (copy / "ids.npy").read_bytes()
    (copy / "ids.npy").write_bytes(raw[:200] + b"\xfe" * (len(raw) - 200))
    with pytest.raises(InputError, match="the index is damaged"):
        search_regex(CodeIndex.open(copy), r"\w+")


@pytest.mark.parametrize("name", ["model", "books", "text", "context", "n_tokens", "span", "layout", "bytes"])
def test_no_manifest_ends_in_more_than_one_line(copy, name):
    """Any of its values may be anything: it says what is wrong."""
    whole = (copy / MANIFEST).read_text()
    changes = [{name: value} for value in (None, 0, -3, "x", [], [[1]], {}, {"x": 1})]
    for changed in (*changes, {"without": name}):
        (copy / MANIFEST).write_text(whole)
        _change(copy, **changed)
        with pytest.raises(InputError) as error:
            CodeIndex.open(copy)
        assert "\n" not in str(error.value) and str(copy) in str(error.value), changed


def test_documents_of_two_sources_are_whole(model, books, tmp_path):
    """Blocks of sources alternate as training reads them; an index keeps each source's together."""
    for name, word in (("a", "Mary"), ("b", "number")):
        lines = [json.dumps({"text": f"{word} {n} {word} end."}) for n in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    text = load_text(f"{tmp_path / 'a.jsonl'}+{tmp_path / 'b.jsonl'}", model, n_tokens=20 * 20, context=20)
    index = build_index(model, books, text, tmp_path / "ix", batch_size=8)
    corpus, ends = index.corpus, index.corpus.document_bytes
    documents = [corpus.text[a:b].tobytes().decode() for a, b in zip(ends[:-1], ends[1:], strict=True)]
    assert all(("Mary" in document) != ("number" in document) for document in documents if len(document) > 8)
    cut = [document for document in documents if not document.endswith("end.")]
    assert len(cut) == 2, cut  # one a source
    # ids stand at the tokens that they are of
    with torch.no_grad(), attach(model, {"r1": books["r1"]}, error_term=False) as attached:
        model(torch.tensor(np.asarray(corpus.tokens[:20]).astype(int))[None])
    ours = index.ids.rows([book.name for book in index.books].index("r1"), np.arange(20)).ravel()
    assert ours.tolist() == attached.ids["r1"].ravel().tolist()
    assert build_index(model, books, text, tmp_path / "ix").n_tokens == 400


def test_an_index_is_told_where_its_codebooks_have_moved_to(model, text, books, index, copy, tmp_path):
    stored = Codebooks(tmp_path / "books", {"sites": list(books)}, books)
    moved = CodeIndex.build(model, stored, text, copy)
    assert moved.manifest["books"]["folder"] == str(tmp_path / "books")
    assert CodeIndex.open(copy).manifest == {**index.manifest, "books": moved.manifest["books"]}
    assert build_index(model, books, text, copy).manifest == moved.manifest  # not told, not forgotten


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{WORK}/request.json", content) for content in ("{}", "[]", '{"books": 3}', "no JSON")),
        (MANIFEST, '{"format": 1, "sites": ["a0"], "fit": {}, "text": {}}'),
    ],
)
def test_what_another_command_has_begun_or_made_is_left_alone(model, text, books, tmp_path, name, content):
    (tmp_path / WORK).mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        build_index(model, books, text, tmp_path)
    assert (tmp_path / name).read_text() == content
    assert ("delete" in str(error.value)) == (name != MANIFEST), "codebooks are not to be deleted"


@pytest.mark.parametrize(
    "workers", [SERIAL, pytest.param(Workers("ray"), marks=[pytest.mark.ray])], ids=["here", "ray"]
)
def test_parts_are_joined_to_the_same_index_bit_for_bit(tmp_path, model, text, books, monkeypatch, workers, request):
    """Built by shards, one of them killed, or by workers; of more parts than a code has best contexts."""
    if not workers.serial:
        request.getfixturevalue("ray_cluster")
    monkeypatch.setattr(build, "PARTS", 12)
    stored = save_books(model, text, books, tmp_path / "books")
    whole = build_index(model, stored, text, tmp_path / "whole", batch_size=2)
    part = partial(build_parts, model, stored, text, tmp_path / "ix", batch_size=2, workers=workers)
    for shard in (Shard(1, 2), Shard(2, 2)) if workers.serial else (None,):
        if shard is not None:
            with pytest.raises(_KilledError):
                part(shard=shard, stage=_killed_after(9))
        part(shard=shard)
    assert len(list((tmp_path / "ix" / WORK).glob("part-*"))) == 12
    monkeypatch.setattr(build, "_store", None)  # no batch is read when parts are joined
    joined = build_index(model, stored, text, tmp_path / "ix", batch_size=2)
    joined_files, wanted = ({n: t for n, t in tree(i.folder).items() if n != "log.jsonl"} for i in (joined, whole))
    assert joined_files.keys() - {"log-1-of-2.jsonl", "log-2-of-2.jsonl"} == wanted.keys()
    assert all(joined_files[name] == content for name, content in wanted.items())
    assert joined.counts.sum() > 1000
