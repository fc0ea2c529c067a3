"""The least-squares step against a dense solution."""

import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.kmeans import RIDGE, refit


def test_refit_is_ridge_regression_on_the_codes_of_each_vector(monkeypatch):
    monkeypatch.setattr("interp.bottlenecks.kmeans.PART", 16)
    rows, book = torch.randn(2, 50, 5), torch.randn(2, 8, 5)
    ids = torch.randint(8, (2, 50, 3))
    found = refit(rows, ids, book)
    for group in range(2):
        design = torch.zeros(50, 8)
        for row in range(50):
            for code in ids[group, row].tolist():
                design[row, code] += 1
        stacked = torch.cat([design, RIDGE**0.5 * torch.eye(8)])
        target = torch.cat([rows[group], RIDGE**0.5 * book[group]])
        torch.testing.assert_close(
            found[group], torch.linalg.lstsq(stacked, target).solution, atol=1e-4, rtol=1e-3
        )


def test_a_code_without_vectors_stays_where_it_is():
    rows, book = torch.randn(1, 30, 4), torch.randn(1, 6, 4)
    found = refit(rows, torch.randint(5, (1, 30, 2)), book)
    torch.testing.assert_close(found[0, 5], book[0, 5])


def test_sums_of_codes_fit_better_after_it(monkeypatch):
    atoms = torch.nn.functional.normalize(torch.randn(24, 16), dim=-1)
    x = atoms[torch.randint(24, (2000, 3))].sum(1)
    errors = {}
    for rounds in (0, 2):
        monkeypatch.setattr("interp.bottlenecks.codebook.REFITS", rounds)
        for selection in ("cosine", "matching_pursuit"):
            book = Codebook(CodebookConfig(d_in=16, n_codes=64, k=4, selection=selection)).fit(x)
            errors[selection, rounds] = float((book(x).detach() - x).square().sum())
    assert errors["cosine", 2] < 0.95 * errors["cosine", 0]
    assert errors["matching_pursuit", 2] < errors["matching_pursuit", 0]
