"""Targets on small files of their own, with a tiny encoder: which head, which languages, what is predicted."""

import json

import pytest
import torch

from tests.model.encoders import tiny_encoder
from trainer.config import DataSection, RunConfig, TrainSection
from trainer.data.prepare import open_split
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation.results import summarise, write_results
from trainer.evaluation.scorer import score_folders
from trainer.evaluation.zero_shot import evaluate_targets, head_for, languages_for, missing_file
from trainer.model.attention import SDPA
from trainer.model.heads import HeadBank
from trainer.model.multitask import MultiTaskModel
from trainer.restore import RestoredModel
from trainer.tasks.intermediate import COSMOS_QA, MNLI, QQP, SQUAD_V1, SQUAD_V2
from trainer.tasks.spec import Task
from trainer.tasks.xtreme import PANX, TARGETS, TYDIQA, XNLI, XQUAD
from trainer.tasks.xtreme_r import COPA, SIQA, XCOPA

WORDS = "the cat sat in a house and the dog ran to the city".split()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def xnli_rows(count, shift=0):
    labels = ("neutral", "entailment", "contradiction")
    rows = [
        (" ".join(WORDS[i % 5 : 6 + i % 7]), " ".join(WORDS[i % 3 : 4]), labels[(i + shift) % 3]) for i in range(count)
    ]
    return "".join("\t".join(row) + "\n" for row in rows)


def panx_sentences(language, count):
    tags = ["O", "B-PER", "I-PER", "B-LOC", "O"]
    sentences = [
        [f"{language}:{WORDS[(i + k) % 12]}\t{tags[(i + k) % 5]}" for k in range(2 + i % 4)] for i in range(count)
    ]
    return "\n".join("".join(f"{line}\n" for line in sentence) for sentence in sentences)


def squad(language, count):
    context = " ".join(WORDS)
    questions = [
        {"id": f"{language}{i}", "question": "who sat?", "answers": [{"text": "cat", "answer_start": 4}]}
        for i in range(count)
    ]
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]})


@pytest.fixture
def folder(tmp_path):
    """Test files: of XNLI in four languages (one example in French, none in Arabic), WikiANN and XQuAD in two."""
    for language, text in {"en": xnli_rows(11), "de": xnli_rows(7, 1), "fr": xnli_rows(1), "ar": ""}.items():
        write(tmp_path / "xnli" / f"test-{language}.tsv", text)
    for language, count in {"en": 5, "de": 3}.items():
        write(tmp_path / "panx" / language / "test", panx_sentences(language, count))
        write(tmp_path / "xquad" / f"xquad.{language}.json", squad(language, count))
    return tmp_path


@pytest.fixture
def restored(folder, tiny_tokenizer):
    """A model with random heads for NLI, entities and spans, and with one that no target here uses."""
    encoder = tiny_encoder("xlm-roberta", SDPA, vocab_size=len(tiny_tokenizer))
    heads = HeadBank({task.name: task for task in (QQP, MNLI, PANX, SQUAD_V1)}, 32, 0.0, share=False, seed=1)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.mul_(20)  # so that predictions differ
    data = DataSection(source="files", folder=str(folder), store=str(folder / "store"), workers=1, max_length=40)
    config = RunConfig(data=data, train=TrainSection(steps=1, pack_tokens=96))
    world = World(0, 1, 0, 1, torch.device("cpu"))
    model = MultiTaskModel(encoder, heads).eval()
    return RestoredModel(config, world, model, "fp32", tiny_tokenizer, {}, None)


def evaluate(restored, *names, **options):
    return evaluate_targets(restored, {name: TARGETS[name] for name in names}, **options)


def test_every_language_with_files_is_scored_and_the_others_are_skipped_with_their_reasons(restored):
    result = evaluate(restored, "xnli")["xnli"]
    assert list(result.languages) == ["de", "en", "fr"], "in the task's order"
    assert {code: found.examples for code, found in result.languages.items()} == {"de": 7, "en": 11, "fr": 1}
    assert result.skipped.keys() == set(XNLI.languages) - {"de", "en", "fr"}
    assert result.skipped["ar"].reason == "no test examples"
    assert "test-ar.tsv has no rows" in result.skipped["ar"].details
    assert {result.skipped[code].reason for code in result.skipped.keys() - {"ar"}} == {"no test files"}
    assert "test-zh.tsv" in result.skipped["zh"].details
    assert result.average == pytest.approx(sum(f.scores["accuracy"] for f in result.languages.values()) / 3)
    assert result.notes == ["scored by the head of mnli"]


def test_predictions_are_those_of_single_sequences(restored):
    """Packed with others, and by the right head and label order: as one plain forward pass a sentence pair."""
    rows = [line.split("\t") for line in xnli_rows(7, 1).splitlines()]
    head, logits = restored.model.heads.heads["mnli"], []
    plain = tiny_encoder("xlm-roberta", "sdpa", vocab_size=len(restored.tokenizer))
    with torch.no_grad():
        for premise, hypothesis, _ in rows:
            ids = torch.tensor([restored.tokenizer(premise, hypothesis)["input_ids"]])
            logits.append(head(plain(input_ids=ids).last_hidden_state[0, :1])[0])
        centred = torch.stack(logits) - torch.stack(logits).mean(0)
        head.out.bias -= torch.stack(logits).mean(0)  # so that predictions differ
    expected = [MNLI.labels[i] for i in centred.argmax(1).tolist()]
    found = evaluate(restored, "xnli", languages=["de"])["xnli"].languages["de"]
    assert found.predictions == expected and len(set(expected)) > 1
    right = [prediction == row[2] for prediction, row in zip(expected, rows, strict=True)]
    assert found.scores == {"accuracy": pytest.approx(100 * sum(right) / 7)}


def test_test_labels_are_matched_by_name(restored):
    """A target that declares the labels in another order than its head."""
    task = Task(**{**vars(XNLI), "labels": XNLI.labels[::-1]})
    languages = ["de", "en"]
    turned = evaluate_targets(restored, {"xnli": task}, languages)["xnli"]
    plain = evaluate(restored, "xnli", languages=languages)["xnli"]
    for code in languages:
        assert turned.languages[code].predictions == plain.languages[code].predictions
        assert turned.languages[code].scores == plain.languages[code].scores


def test_what_is_written_scores_the_same(restored, tmp_path):
    """The scorer reads the written predictions and labels back to every score that it computes itself."""
    results = evaluate(restored, "panx", "xnli", "xquad")
    out = tmp_path / "evaluation"
    write_results(out, results, {})
    rescored, others = score_folders(out / "predictions", out / "labels")
    ours, theirs = summarise(results), summarise(rescored)
    assert theirs["tasks"].keys() == ours["tasks"].keys() and others == []
    for name, task in theirs["tasks"].items():
        assert task["average"] == pytest.approx(ours["tasks"][name]["average"])
        for code, scores in task["languages"].items():
            expected = ours["tasks"][name]["languages"][code]
            assert scores == pytest.approx({metric: expected[metric] for metric in scores}), (name, code)
    assert ours["tasks"]["panx"]["languages"].keys() == {"de", "en"}
    assert len({tag for tags in results["panx"].languages["en"].predictions for tag in tags}) > 1, "or it shows little"
    assert theirs["groups"] == pytest.approx(ours["groups"]) and theirs["total"] == pytest.approx(ours["total"])


def test_everything_is_said_while_it_goes_on(restored):
    said = []
    evaluate(restored, "xquad", "panx", languages=["de"], progress=lambda *what: said.append(what))
    assert ("xquad-de test", 3, None) in said and ("panx-de test", 3, None) in said
    assert [what for what, done, total in said if done == total] == ["xquad test", "panx test"]


def test_a_missing_language_that_was_asked_for_is_an_error(restored):
    with pytest.raises(UserError, match="xnli-zh") as caught:
        evaluate(restored, "xnli", languages=["en", "zh"])
    assert "test-zh.tsv" in caught.value.why


def test_no_files_at_all_are_an_error(restored):
    with pytest.raises(UserError, match="tydiqa"):
        evaluate(restored, "tydiqa")


def test_unknown_test_labels_are_an_error(restored, folder):
    write(folder / "xnli" / "test-en.tsv", "the cat\ta dog\tmaybe\n")
    with pytest.raises(UserError, match="test-en.tsv:1: label 'maybe' is none of"):
        evaluate(restored, "xnli", languages=["en"])


def test_unknown_test_tags_are_an_error(restored, folder):
    write(folder / "panx" / "de" / "test", "de:the\tO\nde:cat\tB-ANIMAL\n")
    with pytest.raises(UserError) as caught:
        evaluate(restored, "panx", languages=["de", "en"])
    assert "B-ANIMAL" in str(caught.value) and "panx-de" in str(caught.value)


def test_sequences_beyond_the_encoders_positions_are_refused(restored, folder):
    write(folder / "xnli" / "test-en.tsv", f"{' '.join(WORDS * 9)}\ta dog\tneutral\n")
    with pytest.raises(UserError, match="the encoder 68 positions") as caught:
        evaluate(restored, "xnli", languages=["en"])
    assert caught.value.fix == "data.max_length=68"


def test_nothing_is_evaluated_before_all_test_data_is_good(restored, folder, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.zero_shot.run_packs", lambda *_, **__: pytest.fail("was evaluated"))
    write(folder / "panx" / "de" / "test", "de:the\n")
    with pytest.raises(UserError, match="panx"):
        evaluate(restored, "xnli", "panx", languages=["de"])


def test_test_data_is_prepared_once(restored):
    evaluate(restored, "xnli", languages=["en"])
    store = open_split(restored.config, limited(XNLI), "test", restored.tokenizer)  # would raise if it were not there
    before = store.folder.stat().st_mtime_ns
    evaluate(restored, "xnli", languages=["en"])
    assert store.folder.stat().st_mtime_ns == before


def limited(task):
    return Task(**{**vars(task), "labels": MNLI.labels})


def heads(*tasks):
    return {task.name: task for task in tasks}, {task.name: [task.name] for task in tasks}


@pytest.mark.parametrize(
    ("target", "trained", "expected"),
    [
        (XNLI, (QQP, MNLI), "mnli"),
        (XNLI, (QQP, MNLI.in_language("de")), "mnli-de"),
        (PANX, (PANX,), "panx"),
        (XQUAD, (SQUAD_V1, TYDIQA), "squad_v1"),
        (TYDIQA, (SQUAD_V1,), "squad_v1"),
        (XCOPA, (SIQA, COPA), "copa"),
        (XCOPA, (SIQA,), "siqa"),
        (XCOPA, (QQP, COSMOS_QA), "cosmos_qa"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_head_is_the_targets_own_or_the_only_one_of_its_family(target, trained, expected):
    assert head_for(target, *heads(*trained)) == expected


def test_tasks_that_share_a_head_are_one():
    tasks, _ = heads(SIQA, COSMOS_QA)
    assert head_for(XCOPA, tasks, {"multiple_choice_family": ["siqa", "cosmos_qa"]}) == "siqa"


@pytest.mark.parametrize(
    ("target", "trained", "message"),
    [
        (PANX, (MNLI,), "no head that could score panx"),
        (XQUAD, (SQUAD_V2,), "no head that could score xquad"),
        (XCOPA, (SIQA, COSMOS_QA), "several heads that could score xcopa: siqa, cosmos_qa"),
    ],
)
def test_no_head_or_several_are_refused(target, trained, message):
    with pytest.raises(UserError, match=message) as caught:
        head_for(target, *heads(*trained))
    assert f"tasks=[{target.head or target.name}]" in caught.value.fix


def test_a_head_without_a_label_of_the_target_cannot_score_it(restored):
    restored.model.heads.tasks["mnli"] = Task(**{**vars(MNLI), "labels": ("entailment", "not_entailment")})
    with pytest.raises(UserError, match="head of mnli cannot score xnli") as caught:
        evaluate(restored, "xnli")
    assert "neutral, contradiction" in caught.value.why


def test_languages_are_those_asked_for_in_the_targets_order():
    assert languages_for(XQUAD, ["zh", "de", "ko"]) == ["de", "zh"]
    assert languages_for(XQUAD, None) == list(XQUAD.languages)
    with pytest.raises(UserError, match="xquad is not in ko or sw"):
        languages_for(XQUAD, ["ko", "sw"])


def test_what_is_on_the_hub_is_not_looked_for_in_files():
    assert missing_file(PANX.in_language("de"), DataSection(source="hub")) is None
    named = DataSection(source="hub", files={"panx": {"test": ("nowhere/{language}.tsv",)}})
    assert "nowhere/de.tsv" in missing_file(PANX.in_language("de"), named).why
    assert missing_file(XNLI.in_language("de"), named) is None
