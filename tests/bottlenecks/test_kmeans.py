"""Grouped k-means against scikit-learn, on known clusters and in a stream."""

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from interp.bottlenecks.kmeans import GroupedKMeans
from interp.errors import InputError


def clusters(n_groups: int, n_rows: int, n_clusters: int = 8, d_in: int = 10):
    """Rows around a few far-off points, another set of points for every group."""
    points = 5 * torch.randn(n_groups, n_clusters, d_in)
    which = torch.randint(n_clusters, (n_groups, n_rows))
    rows = points.gather(1, which[..., None].expand(-1, -1, d_in)) + 0.1 * torch.randn(n_groups, n_rows, d_in)
    return rows, which


@pytest.mark.parametrize("spherical", [False, True])
def test_clusters_that_are_there_are_found_in_every_group(spherical):
    rows, which = clusters(3, 400)
    found = GroupedKMeans(8, spherical=spherical).fit(rows).predict(rows)
    for group in range(3):
        assert adjusted_rand_score(which[group], found[group]) > 0.99


def test_a_stream_of_shards_finds_them_too():
    rows, which = clusters(2, 1200)
    kmeans = GroupedKMeans(8, spherical=False)
    for shard in rows.split(200, dim=1):
        kmeans.partial_fit(shard)
    for group in range(2):
        assert adjusted_rand_score(which[group], kmeans.predict(rows)[group]) > 0.99
    assert kmeans.counts_.sum(1).tolist() == [1200, 1200]


def test_error_without_clusters_is_at_the_level_of_scikit_learn():
    rows = torch.randn(1, 1500, 6)
    ours = GroupedKMeans(40, spherical=False).fit(rows, iterations=20)
    error = (rows - ours.centres_[0][ours.predict(rows)]).square().sum()
    assert error < 1.03 * KMeans(40, n_init=1, random_state=0).fit(rows[0].numpy()).inertia_


def test_many_rows_are_compared_in_parts_with_the_same_result(monkeypatch):
    rows = torch.randn(2, 301, 6)
    whole = GroupedKMeans(20, spherical=False).fit(rows)
    for name in ("IN_CACHE", "PART"):
        monkeypatch.setattr(f"interp.bottlenecks.kmeans.{name}", 200)
    parts = GroupedKMeans(20, spherical=False).fit(rows)
    torch.testing.assert_close(parts.centres_, whole.centres_)
    assert torch.equal(parts.predict(rows), whole.predict(rows))


def test_groups_do_not_mix():
    rows, _ = clusters(2, 300)
    both = GroupedKMeans(8, spherical=False).fit(rows)
    assert both.centres_[0].mean(0).dist(rows[0].mean(0)) < both.centres_[0].mean(0).dist(rows[1].mean(0))
    other = GroupedKMeans(8, spherical=False).fit(torch.stack([rows[0], torch.randn(300, 10)]))
    assert adjusted_rand_score(both.predict(rows)[0], other.predict(rows)[0]) > 0.99


def test_spherical_centres_have_unit_norm():
    centres = GroupedKMeans(8, spherical=True).fit(torch.randn(2, 100, 5)).centres_
    torch.testing.assert_close(centres.norm(dim=-1), torch.ones(2, 8))


def test_a_spherical_centre_is_the_mean_direction_of_all_shards():
    """However scattered earlier shards were: each row counts once."""
    scattered = torch.nn.functional.normalize(torch.randn(1, 400, 3) + torch.tensor([0.3, 0, 0]), dim=-1)
    close = torch.nn.functional.normalize(torch.tensor([0, 1.0, 0]) + 0.1 * torch.randn(1, 400, 3), dim=-1)
    kmeans = GroupedKMeans(1, spherical=True)
    for shard in (scattered, close):
        kmeans.partial_fit(shard)
    mean = torch.nn.functional.normalize(torch.cat([scattered, close], 1).mean(1), dim=-1)
    torch.testing.assert_close(kmeans.centres_[:, 0], mean)


def test_no_centre_stays_empty_when_rows_repeat():
    rows = torch.randn(1, 12, 5).repeat(1, 20, 1)
    kmeans = GroupedKMeans(12, spherical=False).fit(rows)
    assert kmeans.predict(rows).unique().numel() == 12


def test_fewer_rows_than_centres_are_refused():
    with pytest.raises(InputError, match="5 vectors for 8 codes"):
        GroupedKMeans(8, spherical=False).partial_fit(torch.randn(1, 5, 3))
