import dataclasses
import time

import numpy as np
import pytest

from tests.tasks.formats import encode, examples_of, place, score_of_gold
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import SQUAD_V1, SQUAD_V2
from trainer.tasks.span_extraction import IGNORED

KIND = FORMATS["span_extraction"]
FILLER = "the dog ran in the city and "


def row(context: str, *answers: tuple[str, int], question: str = "who sat", name: str = "q") -> dict:
    texts, starts = [text for text, _ in answers], [start for _, start in answers]
    answers = {"text": texts, "answer_start": starts}
    return {"id": name, "question": question, "context": context, "answers": answers}


def gold_logits(units, arrays) -> np.ndarray:
    """10 for the target start and end of each window; windows without the answer prefer candidate 0 by less."""
    logits = np.zeros((len(arrays["rows"]), 2))
    for i, unit in enumerate(units):
        for side in (0, 1):
            logits[arrays["index"][i, unit.target[side]], side] = 10 if unit.target != [0, 0] else 1
    return logits


def test_no_answer_needs_a_task_that_allows_it():
    assert KIND.example(row("a cat"), SQUAD_V2)["answers"] == []
    with pytest.raises(ValueError, match="no_answer"):
        KIND.example(row("a cat"), SQUAD_V1)
    pairs = row("a cat") | {"answers": [{"text": "cat", "answer_start": 2}]}
    assert KIND.example(pairs, SQUAD_V1)["starts"] == [2]
    for bad in ("cat", {"text": ["cat"], "answer_start": []}, {"text": [" "], "answer_start": [1]}):
        with pytest.raises(ValueError, match="answer"):
            KIND.example(row("a cat") | {"answers": bad}, SQUAD_V1)


def test_one_window(tiny_tokenizer):
    example = row("the cat sat in a zoo.", ("cat", 4))
    (unit,), counts = encode(examples_of([example], SQUAD_V1), SQUAD_V1, tiny_tokenizer)
    expected = tiny_tokenizer("who sat", "the cat sat in a zoo.")
    assert unit.sequences == [expected["input_ids"]] and not counts
    begin, end = unit.rows
    assert tiny_tokenizer.convert_ids_to_tokens(unit.sequences[0][begin:end])[:2] == ["▁the", "▁cat"]
    assert end == len(unit.sequences[0]) - 1
    assert unit.target == [2, 2]  # the second context token; candidate 0 is <s>
    assert unit.offsets[2:4] == [4, 7]  # without the space of ▁cat


def test_windows_agree_with_the_tokenizers_overflow(tiny_tokenizer):
    example = row(FILLER * 60 + "the cat sat", ("cat", len(FILLER * 60) + 4))
    units, counts = encode(examples_of([example], SQUAD_V1), SQUAD_V1, tiny_tokenizer)
    expected = tiny_tokenizer(
        example["question"],
        example["context"],
        truncation="only_second",
        max_length=384,
        stride=128,
        return_overflowing_tokens=True,
    )
    assert [unit.sequences[0] for unit in units] == expected["input_ids"]
    assert counts == {"windows": len(units) - 1} and len(units) == 2
    assert [unit.target == [0, 0] for unit in units] == [True, False]


def test_gold_logits_score_100_over_windows(tiny_tokenizer):
    late = FILLER * 60
    rows = [
        row("the cat sat in a zoo.", ("zoo", 17), name="a"),
        row(late + "the cat sat", ("the cat", len(late)), name="b"),
        row("a dog ran", name="c"),
        row(FILLER * 100, name="d"),
    ]
    examples = examples_of(rows, SQUAD_V2)
    units, _ = encode(examples, SQUAD_V2, tiny_tokenizer)
    placed = place(units)
    arrays = KIND.collate(placed, SQUAD_V2)
    assert arrays["index"].shape == (len(units), max(1 + u.rows[1] - u.rows[0] for u in units))
    assert (arrays["index"].max(axis=1) + 1)[-1] == len(arrays["rows"])
    assert (arrays["rows"][arrays["index"][:, 0]] == [p.starts[0] for p in placed]).all()
    predictions, scores = score_of_gold(gold_logits(units, arrays), units, examples, SQUAD_V2)
    assert [p["text"] for p in predictions[:2]] == ["zoo", "the cat"]
    assert [p["null_difference"] > 0 for p in predictions] == [False, False, True, True]
    assert predictions[1]["logit"] == 20 and predictions[1]["null_difference"] == -20
    assert scores["exact_match"] == scores["f1"] == 100


def test_answers_away_from_their_offset(tiny_tokenizer):
    rows = [
        row("cat cat cat", ("cat", 7)),  # between the second, at 4, and the third, at 8: the third is nearer
        row("a cat ran", ("dog", 2)),
        row("a cat ran", (" cat ", 1)),
    ]
    units, counts = encode(examples_of(rows, SQUAD_V1), SQUAD_V1, tiny_tokenizer)
    assert [unit.target for unit in units] == [[3, 3], [IGNORED, IGNORED], [2, 2]]
    assert counts == {"answer_moved": 1, "answer_not_found": 1}


def test_a_long_question_is_cut_and_counted(tiny_tokenizer):
    example = row("a cat", ("cat", 2), question=FILLER * 20)
    (unit,), counts = encode(examples_of([example], SQUAD_V1), SQUAD_V1, tiny_tokenizer)
    assert unit.rows[0] == 1 + 64 + 2 and counts == {"question_truncated": 1}


def test_an_answer_longer_than_a_window_is_counted(tiny_tokenizer):
    text = (FILLER * 100).strip()
    units, counts = encode(examples_of([row(text, (text, 0))], SQUAD_V1), SQUAD_V1, tiny_tokenizer)
    assert all(unit.target == [0, 0] for unit in units)
    assert counts == {"windows": len(units) - 1, "answer_in_no_window": 1}


@pytest.mark.parametrize("length", [16, 40, 200])
def test_short_limits_still_cover_the_context(tiny_tokenizer, length):
    task = dataclasses.replace(SQUAD_V1, max_length=length)
    example = row(FILLER * 30, ("the", 0))
    units, _ = encode(examples_of([example], task), task, tiny_tokenizer)
    assert max(len(unit.sequences[0]) for unit in units) <= length
    covered = {tuple(pair) for unit in units for pair in np.reshape(unit.offsets, (-1, 2))}
    assert len(covered) == len(tiny_tokenizer(example["context"], add_special_tokens=False)["input_ids"])


def test_decode_is_the_best_span_of_at_most_30_tokens():
    rng = np.random.default_rng(0)
    context = "".join(f"{i:03d} " for i in range(60))
    offsets = np.array([[4 * i, 4 * i + 3] for i in range(60)]).ravel()
    logits = rng.normal(size=(61, 2)).astype(np.float32)
    spans = ((s, e) for s in range(1, 61) for e in range(s, min(61, s + 30)))
    start, end = max(spans, key=lambda span: logits[span[0], 0] + logits[span[1], 1])
    references = [{"id": "q", "context": context, "answers": []}]
    (prediction,) = KIND.decode([logits], np.array([0]), [offsets], references, SQUAD_V2)
    assert prediction["text"] == context[4 * (start - 1) : 4 * (end - 1) + 3]
    best = float(logits[start, 0] + logits[end, 1])
    assert prediction["null_difference"] == pytest.approx(float(logits[0].sum()) - best, abs=1e-5)


def test_decode_of_ten_thousand_windows_takes_seconds():
    logits = np.random.default_rng(0).normal(size=(331, 2)).astype(np.float32)
    offsets = np.arange(660)
    references = [{"id": "q", "context": "x" * 700, "answers": []}] * 5000
    began = time.perf_counter()
    KIND.decode([logits] * 10000, np.arange(10000) // 2, [offsets] * 10000, references, SQUAD_V2)
    assert time.perf_counter() - began < 10


def test_no_units():
    arrays = KIND.collate([], SQUAD_V1)
    assert arrays["rows"].shape == (0,) and arrays["index"].shape == (0, 1) and arrays["target"].shape == (0, 2)
    assert KIND.split(np.zeros((0, 2), np.float32), []) == []
