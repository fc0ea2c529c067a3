"""What SAELens reads of ours, and its SAEs attached as codes."""

import pytest
import torch

pytest.importorskip("sae_lens")  # not there beside transformer-lens 4

from sae_lens import SAE, AbsTopKSAE, AbsTopKSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE
from sae_lens.saes.sae import SAEMetadata

from interp.bottlenecks import Codebook, CodebookConfig, DiscreteSAE, DiscreteSAEConfig, LayerNormCodebook
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.bottlenecks.interop.sae_lens import CodebookSAE, SaeLensCodes, export_to_sae_lens
from interp.errors import InputError
from interp.models import parse_site
from tests.oracles import kept

PROMPT = "When Mary and John went to the store, John gave a drink to"
SELECTIONS = [("cosine", "unit"), ("matching_pursuit", "scaled")]


def standard_sae(d_in: int, d_sae: int = 40, **options) -> SAE:
    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=d_sae, **options))
    with torch.no_grad():
        sae.b_dec.normal_()
        sae.b_enc.normal_()
    return sae


@pytest.mark.parametrize(("selection", "magnitude"), SELECTIONS)
@pytest.mark.parametrize("groups", [1, 3])
def test_exported_codebook_is_loaded_by_sae_lens_with_the_same_codes(selection, magnitude, groups, tmp_path):
    config = CodebookConfig(6, 20, k=2, groups=groups, selection=selection, magnitude=magnitude)
    book = Codebook(config)
    export_to_sae_lens(book, tmp_path, model_name="tiny", site="m1")
    sae = SAE.load_from_disk(tmp_path)
    assert isinstance(sae, CodebookSAE)
    assert sae.cfg.metadata.hook_name == "blocks.1.hook_mlp_out"
    x = torch.randn(5, 7, groups * 6)
    ours = x if groups == 1 else x.unflatten(-1, (groups, 6))
    torch.testing.assert_close(sae(x), book(ours).reshape(x.shape))
    acts, codes = sae.encode(x).unflatten(-1, (groups, 20)), book.encode(ours)
    ids = codes.ids.reshape(5, 7, groups, 2).long()
    # matching pursuit may name a code twice: its values add up
    expected = torch.zeros_like(acts).scatter_add_(-1, ids, codes.values.reshape(ids.shape))
    torch.testing.assert_close(acts, expected)
    torch.testing.assert_close(sae.encode(x) @ sae.W_dec, sae.decode(sae.encode(x)))
    export_to_sae_lens(book, tmp_path / "heads", model_name="tiny", site="a1")
    heads = SAE.load_from_disk(tmp_path / "heads")
    assert heads.cfg.metadata.hook_name == "blocks.1.attn.hook_z"
    if groups > 1:  # z as SAELens hands it over
        torch.testing.assert_close(heads(ours), book(ours))


@pytest.mark.parametrize("k", [1, 3])
def test_exported_discrete_sae_is_a_topk_sae_with_the_same_codes_and_vectors(k, tmp_path):
    x = torch.randn(60, 2, 8)
    layer = DiscreteSAE(DiscreteSAEConfig(8, 16, k=k, groups=2, epochs=40, lr=0.02, l1=1e-3)).fit(x)
    ours, x = layer.select(slice(1, 2)), x[:, 1]
    export_to_sae_lens(ours, tmp_path, model_name="tiny", site="a1.h1")
    sae = SAE.load_from_disk(tmp_path)
    assert isinstance(sae, TopKSAE) and sae.cfg.metadata.hook_name == "blocks.1.attn.hook_z"
    codes = ours.encode(x)
    torch.testing.assert_close(sae(x), ours.decode(codes), atol=1e-5, rtol=1e-4)
    read = SaeLensCodes.from_pretrained(tmp_path, k=k).encode(x)
    torch.testing.assert_close(read.values, codes.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(read.ids[codes.values > 0], codes.ids[codes.values > 0])


def test_active_features_are_codes_of_either_sign_and_the_sae_stays_as_it_is(tmp_path):
    either, standard = AbsTopKSAE(AbsTopKSAEConfig(d_in=8, d_sae=32, k=6)), standard_sae(8)
    x = torch.randn(4, 5, 8)
    for sae, k in ((either, 6), (standard, 40)):
        expected, codes = sae(x), SaeLensCodes(sae, k=k)
        encoded = codes.encode(x)
        assert encoded.ids.shape == (4, 5, k) and (encoded.values > 0).any()
        assert (encoded.values < 0).any() == (sae is either)
        torch.testing.assert_close(codes.decode(encoded), expected)
        assert torch.equal(sae(x), expected)
    standard.save_model(tmp_path)
    assert SaeLensCodes.from_pretrained(tmp_path, k=5).config.k == 5
    reshaped, z = standard_sae(24, reshape_activations="hook_z"), torch.randn(2, 3, 4, 6)
    SaeLensCodes(reshaped, k=2)
    assert reshaped(z).shape == z.shape


@pytest.mark.parametrize(
    ("point", "site", "warns"),
    [("0.hook_resid_post", "r0", 0), ("1.hook_resid_pre", "r0", 0), ("0.hook_resid_post", "r1", 1)]
    + [("0.hook_mlp_out", "r0", 1)],
)
def test_a_sae_at_another_place_than_its_own_is_told(point, site, warns, tiny_model, recwarn):
    sae = standard_sae(24, metadata=SAEMetadata(hook_name=f"blocks.{point}"))
    attach(tiny_model("llama"), {site: SaeLensCodes(sae, k=2)}, error_term=False)
    warned = [str(warning.message) for warning in recwarn if "was made for" in str(warning.message)]
    assert len(warned) == warns and all(f"bottleneck at {site} was made for" in text for text in warned)


@pytest.mark.parametrize(("site", "reshape"), [("a1", "hook_z"), ("m0", "none"), ("r0", "none")])
def test_any_sae_is_attached_and_its_codes_read_and_set(site, reshape, tiny_model):
    model, sae = tiny_model("llama"), standard_sae(24, reshape_activations=reshape)
    tokens = model.to_tokens(PROMPT)
    (x,) = kept(model, tokens, parse_site(site).hook)
    x = x if reshape == "hook_z" else x.flatten(2)
    with attach(model, {site: SaeLensCodes(sae, k=4)}, error_term=False) as attached:
        plain = model(tokens)
        assert torch.equal(attached.ids[site].long(), sae.encode(x).topk(4).indices)
        with pytest.raises(InputError, match="have a strength"):
            attached.edit(SetCode(site, 7))
        attached.edit(SetCode(site, 7, strength=9.0), positions=5)
        changed = model(tokens)
    assert torch.equal(changed[:, :5], plain[:, :5])
    assert not torch.allclose(changed[:, 5], plain[:, 5], atol=1e-3)


def test_what_one_of_the_two_has_no_form_for_is_refused(tmp_path):
    layers = DiscreteSAE(DiscreteSAEConfig(8, 16, groups=2)), LayerNormCodebook(CodebookConfig(8, 16))
    for book, site, message in zip(layers, ("a0", "m0"), ("2 groups", "layer_norm_codebook"), strict=True):
        with pytest.raises(InputError, match=message):
            export_to_sae_lens(book, tmp_path, model_name="tiny", site=site)
    for how in ("layer_norm", "constant_norm_rescale", "expected_average_only_in", "covariance_whitening"):
        with pytest.raises(InputError, match=how):  # codes cannot undo it
            SaeLensCodes(standard_sae(8, normalize_activations=how), k=2)
    with pytest.raises(InputError, match="k 41"):
        SaeLensCodes(standard_sae(8), k=41)
    codes = SaeLensCodes(standard_sae(8), k=2)
    for refuse in (codes.fit, codes.encode):
        with pytest.raises(InputError):
            refuse(torch.full((2, 8), float("nan")))
