"""Retrieval tasks on vectors given by hand, and on the built-in sample with its encoder."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoModel

from tests.launching import finish, start_ranks
from tests.model.encoders import tiny_encoder
from trainer.config import DataSection, EvaluationSection, ModelSection, RunConfig
from trainer.data.sources import sample_folder
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation import retrieval
from trainer.evaluation.retrieval import evaluate_layers, evaluate_retrieval
from trainer.evaluation.vectors import open_encoder
from trainer.model.attention import SDPA
from trainer.model.encoder import encoder_folder
from trainer.tasks.xtreme import TARGETS

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def files(folder: Path, **sections) -> RunConfig:
    return RunConfig(data=DataSection(source="files", folder=str(folder)), **sections)


@pytest.fixture
def by_hand(monkeypatch):
    """Evaluate with the vector of each sentence given: "3 1" is (3, 1); in every other layer, its reverse."""

    def vectors(encoder, tokenizer, sentences, layers, world, pooling, pack_tokens, max_length, counts, progress):
        width = len(sentences[0].split())  # of a candidate of LAReQA, whose paragraph follows it, more is there
        numbers = torch.tensor([[float(n) for n in sentence.split()[:width]] for sentence in sentences])
        counts["truncated"] += sum("9" in sentence for sentence in sentences)
        return torch.stack([numbers.flip(1) if layer % 2 else numbers for layer in layers])

    monkeypatch.setattr(retrieval, "sentence_vectors", vectors)
    encoder = tiny_encoder("bert", SDPA)

    def evaluate(config, name, layer=0, **options):
        return evaluate_retrieval(encoder, None, config, ALONE, {name: TARGETS[name]}, layer=layer, **options)[name]

    return evaluate


def test_tatoeba_looks_each_english_sentence_up_by_cosine(by_hand, tmp_path):
    folder = tmp_path / "tatoeba"
    write(folder / "tatoeba.deu-eng.eng", "1 0", "0 1", "5 5", "1 2")
    write(folder / "tatoeba.deu-eng.deu", "9 1", "0 9", "90 95", "8 0")  # a large norm is no advantage
    result = by_hand(files(tmp_path), "tatoeba", languages=["de"])
    german = result.languages["de"]
    # English sorted, as XTREME's labels are: "0 1", "1 0", "1 2", "5 5", lines 1, 0, 3 and 2
    assert german.predictions == [1, 3, 2, 2] and german.references == [1, 0, 3, 2]
    assert german.scores == {"accuracy": 50.0} and german.examples == 4 and result.average == 50.0
    assert result.notes[0].startswith("vectors: mean of hidden_states[0] of 2 layers")
    assert result.notes[1] == "3 sentences were truncated to 512 tokens"
    assert by_hand(files(tmp_path), "tatoeba", languages=["de"], layer=1).notes[0] != result.notes[0]


def test_one_example_and_an_empty_file(by_hand, tmp_path):
    folder = tmp_path / "tatoeba"
    for iso3, lines in (("deu", ["1 0"]), ("fra", [])):
        write(folder / f"tatoeba.{iso3}-eng.eng", *lines)
        write(folder / f"tatoeba.{iso3}-eng.{iso3}", *lines)
    result = by_hand(files(tmp_path), "tatoeba")
    assert list(result.languages) == ["de"] and result.average == 100.0
    assert "no rows" in result.skipped["fr"].details and result.skipped["fr"].reason == "no test examples"
    assert result.skipped["af"].reason == result.skipped["zh"].reason == "no test files"
    assert "tatoeba.afr-eng.eng" in result.skipped["af"].details
    assert {*result.languages, *result.skipped} == set(TARGETS["tatoeba"].languages)
    only_empty = by_hand(files(tmp_path), "tatoeba", languages=["fr"])
    assert not only_empty.languages and only_empty.average is None and set(only_empty.skipped) == {"fr"}


def test_tatoeba_from_the_hub(by_hand, monkeypatch, tmp_path):
    def load_dataset(path, name, split, revision):
        assert (path, name) == ("google/xtreme", "tatoeba.deu")
        return datasets.Dataset.from_dict({"source_sentence": ["1 0", "0 1"], "target_sentence": ["2 0", "3 0"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = RunConfig(data=DataSection(source="hub", store=str(tmp_path)))
    german = by_hand(config, "tatoeba", languages=["de"]).languages["de"]
    assert german.predictions == [0, 0] and german.scores == {"accuracy": 50.0}


def test_bad_requests(by_hand, tmp_path):
    with pytest.raises(UserError, match="is missing"):
        by_hand(files(tmp_path), "tatoeba", languages=["de"])
    with pytest.raises(UserError, match="is missing"):
        by_hand(files(tmp_path), "tatoeba")
    with pytest.raises(UserError, match="tatoeba is not in en"):
        by_hand(files(tmp_path), "tatoeba", languages=["en"])
    with pytest.raises(UserError, match="xnli is no retrieval task"):
        by_hand(files(tmp_path), "xnli")
    with pytest.raises(UserError, match="has no layer 3"):
        by_hand(files(tmp_path), "tatoeba", layer=3)
    write(tmp_path / "tatoeba" / "tatoeba.deu-eng.eng", "1 0", "0 1")
    write(tmp_path / "tatoeba" / "tatoeba.deu-eng.deu", "1 0")
    with pytest.raises(UserError, match="not aligned"):  # not skipped: it is there, but damaged
        by_hand(files(tmp_path), "tatoeba")


def corpus(folder: Path, split: str, german: list[str], english: list[str], gold: list[tuple[int, int]]) -> None:
    write(folder / f"de-en.{split}.de", *(f"de-{i}\t{text}" for i, text in enumerate(german)))
    write(folder / f"de-en.{split}.en", *(f"en-{i}\t{text}" for i, text in enumerate(english)))
    write(folder / f"de-en.{split}.gold", *(f"de-{i}\ten-{j}" for i, j in gold))


def unit(axis: int, other: int = -1, width: int = 12) -> str:
    """A direction of its own, or one between two."""
    return " ".join("1" if i in (axis, other) else "0.1" for i in range(width))


def test_bucc_tunes_on_the_sample_and_scores_the_training_split(by_hand, tmp_path):
    folder = tmp_path / "bucc2018" / "de-en"
    # Rows 0 to 3 are the same on both sides, rows 4 and 5 only half so: the sample says that these are no pairs.
    german = [*(unit(i) for i in range(4)), unit(4), unit(5)]
    english = [*(unit(i) for i in range(4)), unit(4, 8), unit(5, 9)]
    corpus(folder, "sample", german, english, [(i, i) for i in range(4)])
    # In the training split row 0 stands there twice on the German side, so nobody knows which is meant.
    corpus(folder, "training", [*german, german[0]], english, [*((i, i) for i in range(4)), (5, 5)])
    result = by_hand(files(tmp_path), "bucc2018")
    found = result.languages["de"]
    assert sorted(found.predictions) == [("de-1", "en-1"), ("de-2", "en-2"), ("de-3", "en-3")]
    assert found.references == [*((f"de-{i}", f"en-{i}") for i in range(4)), ("de-5", "en-5")]
    assert found.scores == pytest.approx({"precision": 100.0, "recall": 60.0, "f1": 75.0}) and found.examples == 5
    assert result.notes[1].startswith("de: margin of at least 2.")
    assert result.notes[1].endswith("tuned on the sample split")
    assert set(result.skipped) == {"fr", "ru", "zh"}


def test_bucc_with_one_split_says_that_it_is_tuned_on_what_it_scores(by_hand, tmp_path):
    sentences = [unit(i) for i in range(6)]
    corpus(tmp_path / "bucc2018", "dev", sentences, sentences[::-1], [(i, 5 - i) for i in range(6)])
    result = by_hand(files(tmp_path), "bucc2018", languages=["de"])
    assert result.languages["de"].scores == {"f1": 100.0, "precision": 100.0, "recall": 100.0}
    assert "tuned on the pairs it is scored on, as there is one split only" in result.notes[1]


def paragraph(sentences: list[str], questions: dict[str, tuple[str, int]]) -> dict:
    """Sentences, and id -> (question, index of the sentence that answers it)."""
    starts = [sum(len(text) + 1 for text in sentences[:i]) for i in range(len(sentences))]
    return {
        "context": "".join(f"{text} " for text in sentences),
        "sentence_breaks": [[start, start + len(text) + 1] for start, text in zip(starts, sentences, strict=True)],
        "qas": [
            {"id": key, "question": question, "answers": [{"text": sentences[i], "answer_start": starts[i]}]}
            for key, (question, i) in questions.items()
        ],
    }


def test_lareqa_ranks_the_sentences_of_all_languages(by_hand, tmp_path):
    folder = tmp_path / "lareqa" / "xquad-r"
    folder.mkdir(parents=True)
    texts = {  # cosine with "1 0": 1 0.9 .. ; German ones lie between English ones
        "en": paragraph(["10 1", "1 10", "10 3"], {"a": ("1 0", 0), "b": ("0 1", 1)}),
        "de": paragraph(["10 2", "2 10"], {"a": ("1 0", 0), "b": ("0 1", 0)}),
    }
    for code, tree in texts.items():
        (folder / f"{code}.json").write_text(json.dumps({"data": [{"title": "", "paragraphs": [tree]}]}))
    result = by_hand(files(tmp_path), "lareqa")
    # a, "1 0": en 10 1, de 10 2, en 10 3, ...; right are the first two. b, "0 1": en 1 10, de 2 10, en 10 3, de 10 2,
    # en 10 1; right are the first and the fourth, 10 2: (1/1 + 2/4) / 2 = 75%.
    english = result.languages["en"]
    assert english.predictions[0][:3] == ["en_1_0", "de_1_0", "en_1_2"]
    assert english.references == [
        {"id": "a_en", "answers": ["de_1_0", "en_1_0"]},
        {"id": "b_en", "answers": ["de_1_0", "en_1_1"]},
    ]
    assert english.scores == {"map@20": pytest.approx(87.5)} == result.languages["de"].scores
    assert english.examples == 2 and len(english.predictions[0]) == 5
    assert result.notes[1] == "candidates: 5 sentences, each with its paragraph, of de, en together"
    german = by_hand(files(tmp_path), "lareqa", languages=["de"])
    assert list(german.languages) == ["de"] and not german.skipped, "the candidates are those of both"
    assert german.languages["de"].predictions == result.languages["de"].predictions


def test_layers_are_evaluated_at_once(by_hand, tmp_path):
    write(tmp_path / "tatoeba" / "tatoeba.deu-eng.eng", "1 0", "2 1")
    write(tmp_path / "tatoeba" / "tatoeba.deu-eng.deu", "2 0", "0 2")
    encoder = tiny_encoder("bert", SDPA)
    arguments = encoder, None, files(tmp_path), ALONE, {"tatoeba": TARGETS["tatoeba"]}
    results = evaluate_layers(*arguments, [0, 1], languages=["de"])
    for layer in (0, 1):
        single = by_hand(files(tmp_path), "tatoeba", layer, languages=["de"])
        assert results[layer]["tatoeba"].languages["de"] == single.languages["de"]
        assert f"hidden_states[{layer}]" in results[layer]["tatoeba"].notes[0]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A recipe of the built-in sample and its encoder's folder."""
    data = DataSection(source="sample", store=str(tmp_path_factory.mktemp("store")))
    config = RunConfig(model=ModelSection(encoder="sample"), data=data)
    return config, encoder_folder(config)


@torch.no_grad()
def test_the_sample_gives_the_accuracies_of_a_plain_script(sample):
    config, folder = sample
    encoder, tokenizer = open_encoder(folder, config, ALONE)
    told = []
    result = evaluate_retrieval(
        encoder, tokenizer, config, ALONE, {"tatoeba": TARGETS["tatoeba"]}, ["de", "sw"], "last",
        progress=lambda *what: told.append(what),
    )["tatoeba"]  # fmt: skip
    plain = AutoModel.from_pretrained(folder)
    texts = sample_folder(config.data) / "tatoeba"

    def vector(sentence: str) -> torch.Tensor:
        mean = plain(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0].mean(0)
        return mean / mean.norm()

    for code, iso3 in (("de", "deu"), ("sw", "swh")):
        english, other = (
            torch.stack([vector(line) for line in (texts / f"tatoeba.{iso3}-eng.{side}").read_text().splitlines()])
            for side in ("eng", iso3)
        )
        expected = (english @ other.T).argmax(1).tolist()
        lines = (texts / f"tatoeba.{iso3}-eng.eng").read_text().splitlines()
        order = sorted(range(len(lines)), key=lines.__getitem__)
        assert result.languages[code].predictions == [expected[i] for i in order]
        assert result.languages[code].references == order
        accuracy = 100 * sum(found == i for i, found in enumerate(expected)) / len(expected)
        assert result.languages[code].scores["accuracy"] == pytest.approx(accuracy)
    assert told[-1][0] == "tatoeba test" and told[-1][1] == told[-1][2] == len(told)


def test_every_retrieval_task_of_the_sample_can_be_scored(sample):
    config, folder = sample
    encoder, tokenizer = open_encoder(folder, config, ALONE)
    tasks = {name: TARGETS[name] for name in ("bucc2018", "lareqa")}
    results = evaluate_retrieval(encoder, tokenizer, config, ALONE, tasks, ["de", "zh"])
    assert set(results["bucc2018"].languages) == set(results["lareqa"].languages) == {"de", "zh"}
    assert results["bucc2018"].languages["zh"].examples == 60
    assert 0 < results["lareqa"].average < 100


@pytest.mark.slow
def test_the_number_of_ranks_changes_nothing(sample, tmp_path):
    """1, 2 and 3 processes: equal predictions and scores, of all three tasks."""
    config, folder = sample
    found = {}
    for ranks in (1, 2, 3):
        out = tmp_path / f"{ranks}.json"
        arguments = [folder, config.data.store, str(out)]
        finish(start_ranks(arguments, ranks, module="tests.evaluation.retrieval_worker"))
        found[ranks] = json.loads(out.read_text())
    assert found[1] == found[2] == found[3]
    assert {name: set(languages) for name, languages in found[1].items()} == {
        "tatoeba": {"de", "ru"}, "bucc2018": {"de", "ru"}, "lareqa": {"de", "ru"},
    }  # fmt: skip


def test_packs_are_smaller_on_a_cpu_unless_the_recipe_says_otherwise():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    default, asked = RunConfig(), RunConfig(evaluation=EvaluationSection(pack_tokens=9000))
    assert [retrieval.pack_tokens_for(default, device) for device in (cpu, gpu)] == [4096, 16384]
    assert [retrieval.pack_tokens_for(asked, device) for device in (cpu, gpu)] == [9000, 9000]
