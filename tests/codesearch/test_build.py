"""An index holds what the model's codes are, however often the build was killed."""

import contextlib
import errno
import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch

from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from interp.codesearch import CodeIndex, build, build_index
from interp.codesearch.firing_stats import N_TOP
from interp.codesearch.index import MANIFEST
from interp.codesearch.layout import BLOCK, Book, IdFile, Layout
from interp.codesearch.page import nearest_codes
from interp.errors import InputError
from interp.files import write_json
from interp.text import load_text
from tests.codesearch.conftest import make_books
from tests.command_line import tree


@pytest.fixture(scope="module")
def expected(model, text, books) -> dict[str, np.ndarray]:
    """[token, k] of every book, by attaching them."""
    with torch.no_grad(), attach(model, books, error_term=True) as attached:
        model(text.tokens)
    found = {}
    for site, codes in attached.codes.items():
        ids = codes.ids.masked_fill(codes.values == 0, -1).flatten(0, 1).numpy()
        if ids.ndim == 2:
            found[site] = ids
        else:
            letter = "h" if site.startswith("a") else "g"
            found |= {f"{site}.{letter}{i}": ids[:, i] for i in range(ids.shape[1])}
    return found


def test_books_and_ids_are_those_of_the_attached_model(index, expected):
    assert sorted(book.name for book in index.books) == sorted(expected)
    assert index.n_tokens == 48 * 40 and index.n_tokens % BLOCK  # the last block is not full
    for i, book in enumerate(index.books):
        found = index.ids.rows(i, np.arange(index.n_tokens)).astype(int)
        found[found == book.n_codes] = -1
        for ours, theirs in zip(found.tolist(), expected[book.name].tolist(), strict=True):
            assert set(ours) - {-1} == set(theirs) - {-1}
            assert len(set(ours) - {-1}) == sum(code >= 0 for code in ours)  # each code once


def test_counts_and_positions(index, expected):
    for book in index.books:
        for code in range(book.n_codes):
            there = np.flatnonzero((expected[book.name] == code).any(1))
            assert index.count(book.name, code) == len(there)
            np.testing.assert_array_equal(index.positions(book.name, code), there)


def test_the_best_contexts_are_those_of_the_highest_margin_and_similarity(model, text, books, index):
    """Against the definition, written out for each way of choosing codes."""
    seen = {}
    hooks = {"blocks.0.attn.hook_z": "a0", "blocks.0.hook_mlp_out": "m0"}
    from interp.models import hooked

    with (
        torch.no_grad(),
        hooked(model, {h: lambda x, s=s: seen.update({s: x.clone()}) for h, s in hooks.items()}),
    ):
        model(text.tokens)
    head = seen["a0"][:, :, 2].flatten(0, 1)  # matching pursuit
    codes = books["a0"].codes[2]
    taken: dict[int, list[tuple[float, float]]] = {code: [] for code in range(len(codes))}
    for token, x in enumerate(head):
        for code in index.ids.rows(2, np.array([token]))[0].tolist():
            if code < len(codes):
                cosine = torch.nn.functional.cosine_similarity(x, codes, dim=-1)
                own = cosine[code].item()
                cosine[code] = -2
                taken[code].append((own - cosine.max().item(), own))
                x = x - codes[code]
    _agree(index, "a0.h2", taken)

    half = seen["m0"].flatten(0, 1)[:, 12:]  # the three most similar of the second half
    codes = books["m0"].codes[1]
    taken = {code: [] for code in range(len(codes))}
    for x in half:
        cosine = torch.nn.functional.cosine_similarity(x, codes, dim=-1)
        best = cosine.topk(4)
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
    def build(**options):
        return build_index(
            model, books, text, tmp_path / "new", batch_size=8, save_seconds=save_seconds, **options
        )

    for steps in (2, 3):
        with pytest.raises(_KilledError):
            build(stage=_killed_after(steps))
        with pytest.raises(InputError, match="not finished; the same build command goes on"):
            CodeIndex.open(tmp_path / "new")
    build()
    assert tree(tmp_path / "new") == tree(index.folder)


def test_a_build_killed_before_its_manifest_reads_nothing_again(
    model, text, books, index, tmp_path, monkeypatch
):
    def killed(path, value):
        if path.name == MANIFEST:
            raise _KilledError
        write_json(path, value)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(build, "write_json", killed)
        build_index(model, books, text, tmp_path / "new", batch_size=8)
    monkeypatch.setattr(build, "_store", None)  # no batch is read
    build_index(model, books, text, tmp_path / "new", batch_size=8)
    assert tree(tmp_path / "new") == tree(index.folder)


def test_a_finished_build_is_at_once_done_and_another_is_refused(model, text, books, index, tiny_model):
    before = tree(index.folder)
    assert build_index(model, books, text, index.folder).n_tokens == index.n_tokens
    with pytest.raises(InputError, match="holds an index of another error_term .True, not False"):
        build_index(model, books, text, index.folder, error_term=False)
    other = make_books()
    other["r1"].codes += 1
    with pytest.raises(InputError, match="holds an index of another books .fingerprint"):
        build_index(model, other, text, index.folder)
    fewer = {site: book.with_k(1) if site == "a0" else book for site, book in books.items()}
    with pytest.raises(InputError, match="holds an index of another books .configs.a0.k 2, not 1"):
        build_index(model, fewer, text, index.folder)
    with pytest.raises(InputError, match="was made with another a0 .k 2, not 1"):
        CodeIndex.open(index.folder, fewer)
    index.check_books(dict(reversed(books.items())))
    with pytest.raises(InputError, match="is an index of .* not of"):
        index.check_model(tiny_model("gpt2"))
    with pytest.raises(InputError, match="was made with other codebooks"):
        CodeIndex.open(index.folder, other)
    assert tree(index.folder) == before


def test_two_builds_do_not_write_in_one_folder_and_others_have_their_turn(model, text, books, tmp_path):
    """The second one is refused while the first is at work; between batches the lock is free."""
    lock, held = threading.Lock(), []

    @contextlib.contextmanager
    def stage(name, _total):
        def done(_n, _note=""):
            held.append(lock.locked())
            if name == "reading codes" and len(held) == 2:
                with pytest.raises(InputError, match="is being built by another process"):
                    build_index(model, books, text, tmp_path / "new")

        yield done

    seen = []

    def turn():
        seen.append(lock.locked())
        return lock

    build_index(model, books, text, tmp_path / "new", batch_size=16, turn=turn, stage=stage)
    assert seen == [False] * 3 and not any(held)


def test_spliced_codes_are_those_behind_other_codebooks(model, text, books, index, tmp_path):
    spliced = build_index(model, books, text, tmp_path / "spliced", error_term=False)
    everywhere = np.arange(index.n_tokens)
    same = [
        (index.ids.rows(i, everywhere) == spliced.ids.rows(i, everywhere)).all()
        for i in range(len(index.books))
    ]
    assert same[:4] == [True] * 4 and not same[-1]


@pytest.mark.parametrize("name", ["ids.npy", "tokens.npy", "lists.npy", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "gone", "garbage"])
def test_damage_is_one_clear_line(index, tmp_path, name, how):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    path = folder / name
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(InputError) as error:
        CodeIndex.open(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_ids_out_of_range_are_called_damage(index, tmp_path):
    from interp.codesearch import search_regex

    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    raw = bytearray((folder / "ids.npy").read_bytes())
    raw[200:] = b"\xfe" * (len(raw) - 200)
    (folder / "ids.npy").write_bytes(raw)
    with pytest.raises(InputError, match="the index is damaged"):
        search_regex(CodeIndex.open(folder), r"\w+")


def test_a_manifest_of_another_format(index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(InputError, match="not of format"):
        CodeIndex.open(folder)
    with pytest.raises(InputError, match="no code index"):
        CodeIndex.open(tmp_path)


@pytest.mark.parametrize("name", ["model", "books", "text", "context", "n_tokens", "span", "layout", "bytes"])
@pytest.mark.parametrize("value", [None, 0, -3, "x", [], [[1]], {}, {"x": 1}])
def test_no_manifest_ends_in_more_than_one_line(index, tmp_path, name, value):
    """Any of its values may be anything: it opens or says what is wrong."""
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for changed in ({**manifest, name: value}, {k: v for k, v in manifest.items() if k != name}):
        (folder / "manifest.json").write_text(json.dumps(changed))
        try:
            CodeIndex.open(folder)
        except InputError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
        else:
            raise AssertionError(f"opened with {name} = {value!r}")


def test_tables_of_another_index_are_called_damage(index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    table = np.load(folder / "top_token.npy")
    np.save(folder / "top_token.npy", table.reshape(2, -1, table.shape[-1]))
    with pytest.raises(InputError, match=r"top_token.npy is damaged: \(2, "):
        CodeIndex.open(folder)


def test_a_disk_without_room_is_told_before_the_work_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    layout = Layout((Book("a0.h0", "a0", 0, 0, 8, 1),), 1000)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        IdFile.create(tmp_path / "ids.npy", layout)
    assert not any(tmp_path.iterdir())
    monkeypatch.undo()
    IdFile.create(tmp_path / "ids.npy", layout)
    status = (tmp_path / "ids.npy").stat()
    assert status.st_blocks * 512 >= status.st_size, "no hole is left in the file"


def test_documents_of_two_sources_are_whole(model, books, tmp_path):
    """Blocks of sources alternate as training reads them; an index keeps each source's together."""
    for name, word in (("a", "Mary"), ("b", "number")):
        lines = [json.dumps({"text": f"{word} {n} {word} end."}) for n in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    text = load_text(f"{tmp_path / 'a.jsonl'}+{tmp_path / 'b.jsonl'}", model, n_tokens=20 * 20, context=20)
    index = build_index(model, books, text, tmp_path / "ix", batch_size=8)
    corpus, ends = index.corpus, index.corpus.document_bytes
    documents = [corpus.text[a:b].tobytes().decode() for a, b in zip(ends[:-1], ends[1:], strict=True)]
    assert all(("Mary" in found) != ("number" in found) for found in documents if len(found) > 8)
    cut = [found for found in documents if not found.endswith("end.")]
    assert len(cut) == 2, cut  # one a source
    # ids stand at the tokens that they are of
    with torch.no_grad(), attach(model, {"r1": books["r1"]}, error_term=False) as attached:
        model(torch.tensor(np.asarray(corpus.tokens[:20]).astype(int))[None])
    ours = index.ids.rows([book.name for book in index.books].index("r1"), np.arange(20)).ravel()
    assert ours.tolist() == attached.ids["r1"].ravel().tolist()
    assert build_index(model, books, text, tmp_path / "ix").n_tokens == 400


def test_an_index_is_told_where_its_codebooks_have_moved_to(model, text, books, index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    there = Codebooks(tmp_path / "books", {"sites": list(books)}, books)
    moved = CodeIndex.build(model, there, text, folder)
    assert moved.manifest["books"]["folder"] == str(tmp_path / "books")
    assert CodeIndex.open(folder).manifest == {**index.manifest, "books": moved.manifest["books"]}
    assert build_index(model, books, text, folder).manifest == moved.manifest  # not told, not forgotten


def test_a_damaged_index_is_not_answered_with_the_command_that_was_given(model, text, books, index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    (folder / "ids.npy").write_bytes((folder / "ids.npy").read_bytes()[:-7])
    with pytest.raises(InputError, match=f"delete the folder {folder}"):
        build_index(model, books, text, folder)


@pytest.mark.parametrize("content", ["{}", "[]", '{"books": 3}', '{"sites": ["a0"]}', "no JSON"])
def test_what_another_command_has_begun_is_left_alone(model, text, books, tmp_path, content):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "request.json").write_text(content)
    with pytest.raises(InputError, match="damaged, or of another command: delete the folder"):
        build_index(model, books, text, tmp_path)
    assert (tmp_path / ".work" / "request.json").read_text() == content


def test_a_builder_that_waited_for_the_lock_takes_what_the_other_has_built(
    model, text, books, index, tmp_path, monkeypatch
):
    folder = tmp_path / "new"

    @contextlib.contextmanager
    def after_the_other(work):
        shutil.copytree(index.folder, folder)
        work.mkdir()
        yield

    monkeypatch.setattr(build, "_alone", after_the_other)
    monkeypatch.setattr(build, "_store", None)  # no batch is read
    assert build_index(model, books, text, folder).n_tokens == index.n_tokens
    assert tree(folder) == tree(index.folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("span", 64, "a span of 64, not 1"), ("context", 37, "no whole blocks of 37")],
)
def test_numbers_that_do_not_fit_are_called_damage(index, tmp_path, name, value, message):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, name: value}))
    with pytest.raises(InputError, match=message):
        CodeIndex.open(folder)


@pytest.mark.parametrize("wrong", [[1, 5], [0, 5, 5], [0, 10**6]])
def test_documents_that_are_not_there_are_called_damage(index, tmp_path, wrong):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    np.save(folder / "documents.npy", np.array(wrong, np.int64))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["bytes"]["documents.npy"] = (folder / "documents.npy").stat().st_size
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="documents.npy is damaged: it does not rise"):
        CodeIndex.open(folder)


def test_a_folder_of_another_kind_is_called_so(index, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(index.folder, folder)
    (folder / MANIFEST).write_text(json.dumps({"format": 4, "model": {}, "sites": ["a0"]}))
    with pytest.raises(InputError, match="no code index: its manifest.json is of another kind"):
        CodeIndex.open(folder)


def test_a_codebooks_folder_outside_is_refused_before_it_is_looked_through(index, tmp_path, monkeypatch):
    from pathlib import Path

    seen = []
    (tmp_path / "allowed").mkdir()
    monkeypatch.setattr(Path, "rglob", lambda *_: (seen.append(1) or found for found in [Path("x")]))
    manifest = {**index.manifest, "books": {**index.manifest["books"], "folder": "/usr"}}
    given = CodeIndex(
        index.folder, manifest, index.layout, index.ids, index.tables, None, [tmp_path / "allowed"]
    )
    with pytest.raises(InputError, match="are at /usr, which is not among"):
        given.codebooks()
    assert not seen


@pytest.mark.parametrize("code", [-1, 20, 9999])
def test_neighbours_of_a_code_that_is_not_there(index, code):
    with pytest.raises(InputError, match=f"code {code} of a0.h0"):
        nearest_codes(index, "a0.h0", code)


def test_a_folder_of_codebooks_is_not_to_be_deleted(model, text, books, tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 1, "sites": ["a0"], "fit": {}, "text": {}}))
    with pytest.raises(InputError) as error:
        build_index(model, books, text, tmp_path)
    assert "choose another folder" in str(error.value) and "delete" not in str(error.value)
