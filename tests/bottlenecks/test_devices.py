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
    on_device, x = Bottleneck.from_pretrained(tmp_path).to(device), vectors(here, 400)
    cpu_codes, device_codes = here.encode(x), on_device.encode(x.to(device))
    same = (cpu_codes.ids == device_codes.ids.cpu()).all(-1)
    assert same.float().mean() > 0.99
    torch.testing.assert_close(device_codes.values.cpu()[same], cpu_codes.values[same], atol=1e-4, rtol=1e-4)
    out = on_device.decode(type(cpu_codes)(cpu_codes.ids.to(device), cpu_codes.values.to(device)))
    torch.testing.assert_close(out.cpu(), here.decode(cpu_codes), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_model_under_codes_agrees(device, name, tiny_model_folder, tmp_path):
    folder = str(tiny_model_folder("llama"))
    here, on_device = load_model(folder, device="cpu"), load_model(folder, device=device)
    books = fit_all(here, CASES[name])
    for site, book in books.items():
        book.save_pretrained(tmp_path / site)
    moved = {site: Bottleneck.from_pretrained(tmp_path / site).to(device) for site in books}
    with attach(here, books, error_term=False) as cpu_run, attach(on_device, moved, error_term=False) as device_run:
        for attached in (cpu_run, device_run):
            attached.edit(SetCode("r0", 3), positions=slice(4, None))
        expected, logits = here(PROMPTS[0]), on_device(PROMPTS[0]).cpu()
        for site in books:
            same = (cpu_run.ids[site] == device_run.ids[site].cpu()).float().mean()
            assert same > 0.95
        if all(torch.equal(cpu_run.ids[site], device_run.ids[site].cpu()) for site in books):
            torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
        assert generate(on_device, PROMPTS[0], 4) == generate(on_device, PROMPTS[0], 4, use_cache=False)
