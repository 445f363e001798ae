"""The masked LM head against transformers' models for masked LM, which hold all logits and share their projection."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForMaskedLM

from tests.masked import MIXTURE, TinyTokenizer, masked_collator, masked_prepared
from tests.model.encoders import CONFIGS
from trainer.config import KernelsSection, ModelSection, RunConfig
from trainer.errors import UserError
from trainer.model.attention import SDPA
from trainer.model.build import build_model
from trainer.model.encoder import load_encoder, load_masked_lm
from trainer.model.lm_head import MaskedLMHead, pretrained_state

FACTORS = {"nli": 0.5, "mlm": 0.25, "mlm-de": 2.0}
PAIRS = [(1, 4), (0, 2), (2, 0), (1, 7), (2, 5), (0, 9), (2, 1)]  # (task, unit)
HEAD = "heads.heads.mlm."


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return masked_prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=CONFIGS)
def published(request, tmp_path_factory):
    """(folder, model) of a masked language model whose every weight is random."""
    torch.manual_seed(5)
    model = AutoModelForMaskedLM.from_config(copy.deepcopy(CONFIGS[request.param])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms are zeros and ones at first, which would hide errors
                parameter += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return folder, model


def build(folder, prepared, layers="fused", **model):
    recipe = RunConfig(model=ModelSection(encoder=str(folder), **model), kernels=KernelsSection(layers=layers))
    return build_model(recipe, prepared, TinyTokenizer(), torch.device("cpu"), "fp32")


def pack_of(prepared, pairs=PAIRS):
    tasks, units = (np.array(column) for column in zip(*pairs, strict=True))
    return masked_collator(prepared)(tasks, units, 0, 1)


def cross_entropies(model, batch, name) -> torch.Tensor:
    """Of the masked tokens of a task, from all logits, a sequence at a time."""
    bounds, logits = batch.cu_seqlens.tolist(), []
    for begin, end in zip(bounds, bounds[1:], strict=False):
        logits.append(model(input_ids=batch.input_ids[None, begin:end]).logits[0])
    arrays = batch.heads[name]
    return F.cross_entropy(torch.cat(logits)[arrays["rows"]], arrays["target"], reduction="none")


def test_losses_and_gradients_are_those_of_the_published_model(published, prepared):
    folder, reference = published
    model, report, notes = build(folder, prepared, layers="plain")
    assert "masked LM head: from the encoder's checkpoint" in notes and not report.new
    batch = pack_of(prepared)
    loss, sums = model.eval()(batch, FACTORS)
    expected = {}
    for name in ("mlm", "mlm-de"):
        means = cross_entropies(reference, batch, name) * batch.heads[name]["weight"]
        expected[name] = means.sum()
        assert sums[list(MIXTURE).index(name)].item() == pytest.approx(expected[name].item(), rel=1e-5)
    # Of the other task, the loss is the model's own: here only what masked LM adds to it is looked at.
    own = model(pack_of(prepared, [pair for pair in PAIRS if pair[0] == 0]), FACTORS)[0]
    total = sum(FACTORS[name] * value for name, value in expected.items())
    assert (loss - own).item() == pytest.approx(total.item(), rel=1e-4)

    reference.zero_grad()
    total.backward()
    (loss - own).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    inside = dict(reference.base_model.named_parameters())
    for name, parameter in inside.items():  # the word embeddings' gradient comes from both of their ends
        assert torch.allclose(found[f"encoder.{name}"], parameter.grad, atol=2e-5), name
    assert found["encoder.embeddings.word_embeddings.weight"].abs().max() > 0
    head = reference.cls.predictions if hasattr(reference, "cls") else reference.lm_head
    assert torch.allclose(found[f"{HEAD}bias"], head.bias.grad, atol=2e-5)
    dense = head.transform.dense if hasattr(head, "transform") else head.dense
    assert torch.allclose(found[f"{HEAD}dense.weight"], dense.weight.grad, atol=2e-5)


def test_without_factors_it_gives_losses_and_first_guesses(published, prepared):
    folder, reference = published
    model = build(folder, prepared)[0].eval()
    batch = pack_of(prepared)
    with torch.no_grad():
        logits = model(batch)
        for name in ("mlm", "mlm-de"):
            assert logits[name].shape == (len(batch.heads[name]["rows"]), 2)
            assert torch.allclose(logits[name][:, 0], cross_entropies(reference, batch, name), atol=1e-4)
            assert set(logits[name][:, 1].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_an_encoder_without_a_head_gets_a_new_one_and_says_so(kind, prepared, tmp_path):
    AutoModel.from_config(copy.deepcopy(CONFIGS[kind]), add_pooling_layer=False).save_pretrained(tmp_path)
    model, report, notes = build(tmp_path, prepared)
    assert any("masked LM head: new" in note for note in notes)
    assert {name.split(".")[0] for name in report.new} <= {"lm_head", "cls"} and report.new
    head = model.heads.heads["mlm"]
    assert torch.equal(head.layer_norm.weight, torch.ones(32)) and not head.bias.any()
    assert 0.01 < head.dense.weight.std() < 0.03
    again = build(tmp_path, prepared)[0].heads.heads["mlm"]
    assert torch.equal(again.dense.weight, head.dense.weight), "a function of the seed"


def test_random_weights_have_a_new_head(published, prepared):
    model, report, notes = build(published[0], prepared, init="random")
    assert any("masked LM head: new" in note for note in notes) and report.loaded == 0
    assert not model.heads.heads["mlm"].bias.any()


def test_the_encoder_is_the_one_that_is_loaded_without_a_head(published):
    recipe = RunConfig(model=ModelSection(encoder=str(published[0])))
    plain, report = load_encoder(recipe, SDPA)
    with_head, full = load_masked_lm(recipe, SDPA)
    found, expected = with_head.base_model.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert full.loaded > report.loaded and not full.new
    assert not any(name.startswith(("lm_head", "cls.predictions")) for name in full.ignored)


def test_an_untied_projection_is_not_taken_over(tmp_path, prepared):
    config = copy.deepcopy(CONFIGS["xlm-roberta"])
    config.tie_word_embeddings = False
    model = AutoModelForMaskedLM.from_config(config)
    assert pretrained_state(model) is None
    model.save_pretrained(tmp_path)
    assert any("masked LM head: new" in note for note in build(tmp_path, prepared)[2])


def test_languages_share_one_head(published, prepared):
    model = build(published[0], prepared)[0]
    assert list(model.heads.heads) == ["nli", "mlm"]
    assert isinstance(model.heads.heads["mlm"], MaskedLMHead)
    embedding = model.encoder.get_input_embeddings().weight
    assert not any(parameter is embedding for parameter in model.heads.parameters()), "tied by use, not by name"


def test_no_masked_tokens_give_no_loss_and_zero_gradients(published, prepared):
    model = build(published[0], prepared)[0]
    loss, sums = model(pack_of(prepared, [(0, 1)]), FACTORS)
    assert sums[1:].tolist() == [0.0, 0.0]
    loss.backward()
    for name, parameter in model.heads.heads["mlm"].named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_a_loss_weight_of_zero_is_no_loss(published, prepared):
    model = build(published[0], prepared)[0].eval()
    loss, sums = model(pack_of(prepared, [(1, 1), (2, 2)]), dict.fromkeys(MIXTURE, 0.0))
    assert loss.item() == 0.0 and sums[1:].all()


def test_masked_lm_trains_the_whole_vocabulary(published, prepared):
    assert any("all 60 rows are trained, as mlm predicts" in note for note in build(published[0], prepared)[2])
    with pytest.raises(UserError, match="model.vocabulary is trimmed, but mlm is in the mixture") as caught:
        build(published[0], prepared, vocabulary="trimmed")
    assert "model.vocabulary=full" in caught.value.fix


def test_a_larger_tokenizer_is_refused(published, prepared, monkeypatch):
    monkeypatch.setattr(TinyTokenizer, "__len__", lambda self: 61)
    with pytest.raises(UserError, match="the tokenizer has 61 tokens, the encoder's vocabulary 60"):
        build(published[0], prepared)
