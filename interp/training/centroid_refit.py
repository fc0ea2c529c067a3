"""The last thing that can be done to distilled codes: a part of the way to what they stand for by then.

Training moves codes away from the vectors that they stand for. Part of the way back makes a code again what its vectors
have in common, at little cost to the model; all of it would cost half of what training has gained
(benchmarks/REPORT.md). Layer by layer, as books are fitted: where all moved at once, the mean of what comes to a head
that hardly varies moved by many times its deviation.

Not for codes that a model was finetuned with: it has been fitted to them as they are. Nor for ``nested`` training, as
the least squares is for one number of codes.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Dictionary
from interp.bottlenecks.base import Book, grouped_rows
from interp.bottlenecks.fit import BATCH_SIZE, LayerStream
from interp.bottlenecks.kmeans import least_squares_move
from interp.models import Model, Site, expand_sites
from interp.progress import Stage, silent
from interp.training.trained_codebook import bos_codes

SHARE = 0.25  # of the way
TOKENS = 20_000  # of the text


@torch.no_grad()
def refit_centroids(
    model: Model, books: Mapping[str, Dictionary], blocks: Int[Tensor, "block pos"], folder: Path, stage: Stage = silent
) -> None:
    """Move the codes, in place, by one pass of text without gradients.

    They go :data:`SHARE` of the way to the least squares of :func:`~interp.bottlenecks.kmeans.refit`. With one code a
    vector, a code goes SHARE · n / (n + RIDGE) of the way to the mean of its n vectors. The first position has no say,
    and its codes are held, as in training. The residual streams between two layers lie in ``folder`` meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = {site: books[str(site)] for site in expand_sites(model, books)}
    last = max(site.layer for site in places)
    with TemporaryDirectory(prefix="refit-", dir=folder) as work:
        stream = LayerStream(model, blocks, Path(work), batch_size=BATCH_SIZE, at_most=0)
        with stage("refitting the centroids", len(stream.batches) * (len(places) + last)) as done:
            for layer in range(last + 1):
                moved: dict[Site, Dictionary] = {}
                for site, book in places.items():
                    if site.layer == layer:
                        vectors = torch.cat(stream.collect(site, moved, done)).to(book.device)
                        book.codes.add_((SHARE * moves(book, vectors)).to(book.codes.dtype))
                        book.constrain()
                        moved[site] = book
                if layer < last:
                    stream.advance(moved, done)
                stream.step()


def moves(book: Dictionary, x: Float[Tensor, "block pos *place d_in"]) -> Book:
    """From each code to the least squares, all of the way; none for the codes of the first position."""
    config, codes = book.config, book.encode(x)
    missing = book.rows(x[:, 1:]) - grouped_rows(book.decode(codes)[:, 1:], config)
    shape = (-1, config.groups, config.k)
    ids, values = (part[:, 1:].reshape(shape).transpose(0, 1) for part in (codes.ids, codes.values))
    groups = zip(missing, ids, values.float(), bos_codes(codes, config), strict=True)
    return torch.stack(
        [least_squares_move(lacks, chosen, config.n_codes, w, fixed) for lacks, chosen, w, fixed in groups]
    )
