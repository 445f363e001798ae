import json

import pytest
import torch
from transformers import AutoConfig

from benchmarks import results, sentence_vectors
from benchmarks.sentence_vectors_arm import Plain
from trainer.config import DataSection, ModelSection, RunConfig
from trainer.data.sources import sample_folder
from trainer.model.encoder import encoder_folder


@pytest.fixture(scope="module")
def model_and_texts(tmp_path_factory):
    """The sample's encoder and its Tatoeba folder."""
    data = DataSection(source="sample", store=str(tmp_path_factory.mktemp("store")))
    model = encoder_folder(RunConfig(model=ModelSection(encoder="sample"), data=data))
    return model, sample_folder(data) / "tatoeba"


def test_the_plain_scripts_ways_agree(model_and_texts):
    model, folder = model_and_texts
    sentences = sentence_vectors.sample_sentences(folder, 100)
    assert 100 <= len(sentences) < 200 and len(set(sentences)) > 90
    plain = Plain(model, 2)
    alone, tokens = plain.single(sentences)
    for size in (1, 7, 64):
        vectors, computed = plain.padded(sentences, size, by_length=size > 7)
        assert torch.allclose(vectors, alone, atol=1e-5) and computed >= tokens
    assert not torch.allclose(Plain(model, 3).single(sentences)[0], alone, atol=0.1)


def test_accuracies_are_those_of_the_plain_script(model_and_texts):
    model, folder = model_and_texts
    assert sentence_vectors.describe(model, "last") == {
        "layer": 3, "layers": 3, "hidden_size": 128, "vocabulary": AutoConfig.from_pretrained(model).vocab_size,
        "flops_per_token": 2 * 3 * (4 * 128 * 128 + 2 * 128 * 512),
    }  # fmt: skip
    table = sentence_vectors.accuracies(model, folder, ["de", "ru"], 3)
    assert list(table) == ["de", "ru"]
    for row in table.values():
        assert row["pairs"] == 100 and row["xstilts"] == row["plain"] > 1 and row["different_predictions"] == 0


@pytest.mark.long
def test_the_command_writes_a_result_without_paths(model_and_texts, tmp_path, capsys):
    model, folder = model_and_texts
    options = ["--languages", "de", "--sentences", "60", "--batches", "4,16", "--rounds", "1", "--cores", "1"]
    sentence_vectors.main([str(model), str(folder), *options, "--out", str(tmp_path / "result.json")])
    printed = capsys.readouterr().out
    result = results.read(tmp_path / "result.json")
    assert set(result["sweep"]) == {f"padded {o}, {b} a batch" for o in ("by length", "in order") for b in (4, 16)}
    assert list(result["arms"])[0] == "packed" and len(result["arms"]) == 6 and len(result["ratios"]) == 5
    assert all(row["utilisation"] > 0 for row in result["arms"].values())
    assert all(row["examples"] == result["setting"]["sentences"] for row in result["arms"].values())
    assert result["arms"]["packed"]["fill"] == result["arms"]["one by one"]["fill"] == 1.0
    assert result["accuracy"]["de"]["xstilts"] == result["accuracy"]["de"]["plain"]
    assert "Tatoeba accuracy" in printed and "goal of 1.5" in printed
    assert "/" not in json.dumps({**result, "provenance": {}})
