"""Grouped k-means against scikit-learn, on known clusters and in a stream; least squares against a dense solution."""

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from interp.bottlenecks.kmeans import RIDGE, GroupedKMeans, refit


def clusters(n_groups: int, n_rows: int, n_clusters: int = 8, d_in: int = 10):
    """Rows around a few far-off points, another set of points for every group."""
    points = 5 * torch.randn(n_groups, n_clusters, d_in)
    members = torch.randint(n_clusters, (n_groups, n_rows))
    rows = points.gather(1, members[..., None].expand(-1, -1, d_in)) + 0.1 * torch.randn(n_groups, n_rows, d_in)
    return rows, members


@pytest.mark.parametrize(("spherical", "shard"), [(False, 400), (True, 400), (False, 100)])
def test_clusters_that_are_there_are_found_in_every_group_also_in_a_stream(spherical, shard):
    rows, members = clusters(3, 400)
    kmeans = GroupedKMeans(8, spherical=spherical)
    for part in rows.split(shard, dim=1):
        kmeans.partial_fit(part) if shard < 400 else kmeans.fit(part)
    ids = kmeans.predict(rows)
    for group in range(3):
        assert adjusted_rand_score(members[group], ids[group]) > 0.99
    assert shard == 400 or kmeans.counts_.sum(1).tolist() == [400] * 3


def test_error_without_clusters_is_at_the_level_of_scikit_learn():
    rows = torch.randn(1, 1500, 6)
    ours = GroupedKMeans(40, spherical=False).fit(rows, iterations=20)
    error = (rows - ours.centres_[0][ours.predict(rows)]).square().sum()
    assert error < 1.03 * KMeans(40, n_init=1, random_state=0).fit(rows[0].numpy()).inertia_


def test_a_spherical_centre_is_the_mean_direction_of_all_shards():
    """However scattered earlier shards were: each row counts once."""
    scattered = torch.nn.functional.normalize(torch.randn(1, 400, 3) + torch.tensor([0.3, 0, 0]), dim=-1)
    close = torch.nn.functional.normalize(torch.tensor([0, 1.0, 0]) + 0.1 * torch.randn(1, 400, 3), dim=-1)
    kmeans = GroupedKMeans(1, spherical=True)
    for shard in (scattered, close):
        kmeans.partial_fit(shard)
    mean = torch.nn.functional.normalize(torch.cat([scattered, close], 1).mean(1), dim=-1)
    torch.testing.assert_close(kmeans.centres_[:, 0], mean)
    centres = GroupedKMeans(8, spherical=True).fit(torch.randn(2, 100, 5)).centres_
    torch.testing.assert_close(centres.norm(dim=-1), torch.ones(2, 8))


def test_no_centre_stays_empty_when_rows_repeat():
    rows = torch.randn(1, 12, 5).repeat(1, 20, 1)
    kmeans = GroupedKMeans(12, spherical=False).fit(rows)
    assert kmeans.predict(rows).unique().numel() == 12


def test_refit_is_ridge_regression_on_the_codes_of_each_vector(monkeypatch):
    monkeypatch.setattr("interp.bottlenecks.kmeans.PART", 16)
    rows, book = torch.randn(2, 50, 5), torch.randn(2, 8, 5)
    ids = torch.randint(7, (2, 50, 3))
    refitted = refit(rows, ids, book)
    for group in range(2):
        design = torch.zeros(50, 8)
        for row in range(50):
            for code in ids[group, row].tolist():
                design[row, code] += 1
        stacked = torch.cat([design, RIDGE**0.5 * torch.eye(8)])
        target = torch.cat([rows[group], RIDGE**0.5 * book[group]])
        solution = torch.linalg.lstsq(stacked, target).solution
        torch.testing.assert_close(refitted[group], solution, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(refitted[0, 7], book[0, 7], msg="a code without vectors stays where it is")
