import copy

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ElectraConfig, GPT2Config, XLMRobertaForMaskedLM

from tests.model.encoders import CONFIGS
from trainer.config import ModelSection, RunConfig
from trainer.errors import UserError
from trainer.model import encoder
from trainer.model.attention import BACKENDS, SDPA
from trainer.model.encoder import (
    SHAPES,
    fetch_encoder,
    load_encoder,
    load_masked_lm,
    load_tokenizer,
    position_offset,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A masked language model as it is published: an encoder without pooler, and a head that is not needed."""
    path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(5)
    XLMRobertaForMaskedLM(copy.deepcopy(CONFIGS["xlm-roberta"])).save_pretrained(path)
    return path


def recipe(encoder, seed: int = 0, **model) -> RunConfig:
    return RunConfig(seed=seed, model=ModelSection(encoder=str(encoder), **model))


def state(encoder) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])


def test_weights_come_from_the_checkpoint(folder):
    encoder, report = load_encoder(recipe(folder), SDPA)
    saved = load_file(folder / "model.safetensors")
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, saved[f"roberta.{name}"])
        assert parameter.dtype == torch.float32 and parameter.device.type == "cpu"
    assert encoder.config._attn_implementation == SDPA
    assert not any("pooler" in name for name, _ in encoder.named_parameters())
    assert report.loaded == len(list(encoder.parameters())) and report.new == ()
    assert report.ignored and all("lm_head" in name for name in report.ignored)


@pytest.mark.parametrize("attention", BACKENDS)
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_models_load_for_every_kind_of_attention(folder, attention, init):
    """Those of GPUs, too: transformers looks on the hub for a kernel whose name has "flash" in it."""
    for load in (load_encoder, load_masked_lm):
        model, *_ = load(recipe(folder, init=init), attention)
        assert model.config._attn_implementation == attention


def test_the_report_in_words(folder):
    _, report = load_encoder(recipe(folder), SDPA)
    assert str(report).startswith(f"encoder weights: {report.loaded} loaded, 0 new, 5 (lm_head.bias, ")
    assert str(report).endswith(", ...) ignored")
    _, report = load_encoder(recipe(folder, init="random"), SDPA)
    assert (report.loaded, report.ignored) == (0, ()) and "embeddings.word_embeddings.weight" in report.new


def test_random_weights_follow_the_seed(folder):
    published, (first, _), (again, _), (other, _) = (
        load_encoder(recipe(folder), SDPA)[0],
        *(load_encoder(recipe(folder, seed, init="random"), SDPA) for seed in (1, 1, 2)),
    )
    assert torch.equal(state(first), state(again))
    assert not torch.equal(state(first), state(other))
    assert not torch.equal(state(first), state(published))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_the_override_reaches_every_dropout(tmp_path, kind, init):
    AutoModel.from_config(copy.deepcopy(CONFIGS[kind])).save_pretrained(tmp_path)
    for asked, expected in ((None, 0.1), (0.37, 0.37), (0.0, 0.0)):
        encoder, _ = load_encoder(recipe(tmp_path, dropout=asked, init=init), SDPA)
        found = [module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
        assert len(found) >= 1 + 2 * CONFIGS[kind].num_hidden_layers and set(found) == {expected}
        assert encoder.config.hidden_dropout_prob == encoder.config.attention_probs_dropout_prob == expected


def test_missing_weights_are_refused(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    gone = "roberta.encoder.layer.1.output.dense.bias"
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(UserError, match="lacks 1 of the encoder's weights") as caught:
        load_encoder(recipe(tmp_path), SDPA)
    assert "layer.1.output.dense.bias" in caught.value.what and "model.init=random" in caught.value.fix
    load_encoder(recipe(tmp_path, init="random"), SDPA)


def test_weights_of_another_shape_are_refused(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights["roberta.embeddings.word_embeddings.weight"] = torch.zeros(9, 32)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(UserError, match="cannot load the weights"):
        load_encoder(recipe(tmp_path), SDPA)


@pytest.mark.parametrize("config", [GPT2Config(n_layer=1), ElectraConfig()], ids=["gpt2", "electra"])
def test_other_kinds_of_models_are_refused(tmp_path, config):
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"is of type '{config.model_type}'") as caught:
        load_encoder(recipe(tmp_path), SDPA)
    assert "xlm-roberta" in caught.value.fix


@pytest.mark.parametrize(
    "load", [lambda config: load_encoder(config, SDPA), load_tokenizer], ids=["encoder", "tokenizer"]
)
@pytest.mark.parametrize("name", ["nobody/there-is-no-such-model", "/no/such/folder"])
def test_out_of_reach(monkeypatch, name, load):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot load the (config|tokenizer) of") as caught:
        load(recipe(name))
    assert name in caught.value.what and caught.value.why and "model." in caught.value.fix


@pytest.mark.parametrize("kind, offset", [(kind, 0 if kind == "bert" else 2) for kind in CONFIGS])
def test_position_offset(kind, offset):
    assert position_offset(CONFIGS[kind]) == offset


PARAMETERS = {  # hidden size, layers, inner size, vocabulary (arXiv 1911.02116; 2105.00572)
    "xlm-roberta-base": (768, 12, 3072, 250002),
    "xlm-roberta-large": (1024, 24, 4096, 250002),
    "xlm-roberta-xl": (2560, 36, 10240, 250880),
    "xlm-roberta-xxl": (4096, 48, 16384, 250880),
}


def test_every_shape_is_counted():
    assert SHAPES.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes(name):
    """Against the sum of the layers' sizes; base and large also against known counts without a pooler."""
    with torch.device("meta"):
        encoder, _ = load_encoder(recipe(name, init="random"), SDPA)
    found = sum(parameter.numel() for parameter in encoder.parameters())
    hidden, layers, inner, vocabulary = PARAMETERS[name]
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + hidden + inner + 4 * hidden
    # words, positions, one token type; a norm behind the embeddings, or (XL and XXL) behind the last layer
    assert found == (vocabulary + 514 + 1) * hidden + 2 * hidden + layers * layer
    millions = {"xlm-roberta-base": 277.5, "xlm-roberta-large": 558.8}
    if name in millions:
        assert found / 1e6 == pytest.approx(millions[name], abs=0.06)


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors.index.json"], ["model.safetensors.index.json", "its shards"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_weights_are_fetched_as_they_will_be_loaded(monkeypatch, there, fetched):
    found = []

    def cached_file(name, file, revision, **_):
        assert (name, revision) == ("some/encoder", "v2")
        found.extend([file] * (file in there and file not in found))
        return file if file in there else None

    monkeypatch.setattr(encoder, "encoder_config", lambda config, name: None)
    monkeypatch.setattr(encoder, "cached_file", cached_file)
    monkeypatch.setattr(encoder, "get_checkpoint_shard_files", lambda *_, revision: found.append("its shards"))
    assert fetch_encoder(recipe("some/encoder", revision="v2")) and found == fetched
    there.clear()
    with pytest.raises(UserError, match="cannot load the weights of 'some/encoder'"):
        fetch_encoder(recipe("some/encoder", revision="v2"))


def test_nothing_is_fetched_of_what_is_here(folder):
    assert not fetch_encoder(recipe(folder)) and not fetch_encoder(recipe("sample"))
    assert not fetch_encoder(recipe("xlm-roberta-large", init="random"))
