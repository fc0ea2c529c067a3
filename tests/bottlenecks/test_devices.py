"""A graphics card gives what the processor gives, but for near ties. Skipped where there is none; the suite hides CUDA
unless ``CUDA_VISIBLE_DEVICES`` is set."""

import pytest
import torch

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.models import load_model
from interp.models.generate import generate
from tests.bottlenecks.conformance import CASES, PROMPTS, fit_all, trained, vectors

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS")),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("groups", [1, 3])
def test_ids_and_vectors_agree(device, name, groups, tmp_path):
    here = trained(CASES[name], 8, groups)
    here.save_pretrained(tmp_path)
    there, x = Bottleneck.from_pretrained(tmp_path).to(device), vectors(here, 400)
    ours, theirs = here.encode(x), there.encode(x.to(device))
    same = (ours.ids == theirs.ids.cpu()).all(-1)
    assert same.float().mean() > 0.99
    torch.testing.assert_close(theirs.values.cpu()[same], ours.values[same], atol=1e-4, rtol=1e-4)
    out = there.decode(type(ours)(ours.ids.to(device), ours.values.to(device)))
    torch.testing.assert_close(out.cpu(), here.decode(ours), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_model_under_codes_agrees(device, name, tiny_model_folder, tmp_path):
    folder = str(tiny_model_folder("llama"))
    here, there = load_model(folder, device="cpu"), load_model(folder, device=device)
    books = fit_all(here, CASES[name])
    for site, book in books.items():
        book.save_pretrained(tmp_path / site)
    moved = {site: Bottleneck.from_pretrained(tmp_path / site).to(device) for site in books}
    with attach(here, books, error_term=False) as ours, attach(there, moved, error_term=False) as theirs:
        for attached in (ours, theirs):
            attached.edit(SetCode("r0", 3), positions=slice(4, None))
        expected, found = here(PROMPTS[0]), there(PROMPTS[0]).cpu()
        for site in books:
            same = (ours.ids[site] == theirs.ids[site].cpu()).float().mean()
            assert same > 0.95
        if all(torch.equal(ours.ids[site], theirs.ids[site].cpu()) for site in books):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        assert generate(there, PROMPTS[0], 4) == generate(there, PROMPTS[0], 4, use_cache=False)
