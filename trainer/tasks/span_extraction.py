"""A question and a context that holds its answer, or (SQuAD v2.0) may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.evaluation.squad import squad_scores
from trainer.tasks.framing import Frame, bare_pieces, text_of
from trainer.tasks.spec import PlacedUnit, Task, Unit

STRIDE = 128  # tokens two neighbouring windows share
QUESTION_TOKENS = 64
ANSWER_TOKENS = 30  # longest answer that is looked for
IGNORED = -100  # what torch's cross entropy skips by default


class SpanExtraction:
    """A sequence (question, part of the context) for each window; the head scores a start and an end.

    Candidate 0 of a window is its first token (no answer here), candidate i its i-th context token; `Unit.rows` is
    [begin, end), the positions of the context tokens. `Task.labels == ("no_answer",)` allows unanswerable questions.

    Roles: `question`, `context`, `answers` ({"text": [...], "answer_start": [...]} or a list of such pairs).
    """

    name = "span_extraction"
    version = 1
    roles = ("question", "context", "answers")
    optional_roles = ()

    def outputs(self, task: Task) -> int:
        """A start and an end logit."""
        return 2

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Keys of `score` that may stand for the task."""
        return ("f1", "exact_match", "mean", *(("best_f1", "best_exact_match") if task.labels else ()))

    def example(self, row: Mapping[str, Any], task: Task) -> dict | None:
        """{"id", "question", "context", "answers": texts, "starts": character offsets}; no answers: unanswerable.

        Raises:
            ValueError: a text is missing, or there is no answer though the task is not a no-answer one.
        """
        answers = row.get("answers")
        if isinstance(answers, Mapping):
            texts, starts = list(answers.get("text", ())), list(answers.get("answer_start", ()))
        elif isinstance(answers, (list, tuple)) and all(isinstance(answer, Mapping) for answer in answers):
            texts = [answer.get("text") for answer in answers]
            starts = [answer.get("answer_start") for answer in answers]
        else:
            raise ValueError("answers is neither {text: [...], answer_start: [...]} nor a list of such pairs")
        if len(texts) != len(starts) or not all(isinstance(start, int) for start in starts):
            raise ValueError("an answer has no answer_start")
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("an answer is empty")
        if not texts and not task.labels:
            raise ValueError('no answer; a task with unanswerable questions says so with labels: ["no_answer"]')
        question, context = text_of(row, "question"), text_of(row, "context")
        return {
            "id": str(row.get("id", "")),
            "question": question,
            "context": context,
            "answers": texts,
            "starts": starts,
        }

    def labels(self, examples: list[dict]) -> tuple[str, ...]:
        """None: candidates are positions."""
        return ()

    def encode(self, examples: list[dict], first: int, task: Task, tokenizer, counts: dict[str, int]) -> list[Unit]:
        """A unit a window; windows overlap by 128 tokens, questions keep 64 (jiant's figures, facts of the paper).

        The target is [start candidate, end candidate] of the first answer; [0, 0] where it is not wholly inside the
        window or there is none; [-100, -100] (PyTorch's ignored class: no loss) where the context lacks its text.

        Counts `windows` (beyond one an example), `question_truncated`, `answer_moved` (the text was not at its stated
        offset, the nearest occurrence was taken), `answer_not_found`, `answer_in_no_window` (cut by every window).
        """
        frame = Frame.of(tokenizer, texts=2)
        if not frame.parts[0]:
            raise ValueError("span extraction needs a tokenizer that puts a special token first")
        questions = bare_pieces(tokenizer, [example["question"] for example in examples])
        distinct = list(dict.fromkeys(example["context"] for example in examples))  # questions share paragraphs
        encodings = bare_pieces(tokenizer, distinct)
        contexts = {text: (e.ids, _offsets(text, e.offsets)) for text, e in zip(distinct, encodings, strict=True)}
        longest = min(QUESTION_TOKENS, (task.max_length - frame.size) // 2)
        units = []
        for i, (example, encoded) in enumerate(zip(examples, questions, strict=True)):
            question = encoded.ids[:longest]
            if len(encoded.ids) > longest:
                counts["question_truncated"] += 1
            tokens, offsets = contexts[example["context"]]
            answer = _gold(example, counts)
            room = task.max_length - frame.size - len(question)
            begin = frame.begin(question)
            targets = []
            for low, high in _windows(len(tokens), room):
                sequence, types = frame.build(question, tokens[low:high])
                targets.append(_target(answer, offsets[low:high]))
                units.append(
                    Unit(
                        sequences=[sequence],
                        types=[types] if frame.typed else None,
                        target=targets[-1],
                        rows=[begin, begin + high - low],
                        example=first + i,
                        offsets=offsets[low:high].ravel().tolist(),
                    )
                )
            if len(targets) > 1:
                counts["windows"] += len(targets) - 1
            if example["answers"] and all(target == [0, 0] for target in targets):
                counts["answer_in_no_window"] += 1
        return units

    def reference(self, example: dict) -> dict:
        """{"id", "context", "answers": texts}."""
        return {"id": example["id"], "context": example["context"], "answers": example["answers"]}

    def collate(self, units: list[PlacedUnit], task: Task) -> dict[str, np.ndarray]:
        """Arrays of the n windows of a pack.

        `rows`: int64 (m,) positions of all candidates, window by window; `index`: int64 (n, L) indices into them, -1
        beyond a window's candidates, L the most any has (1 for no windows); `target`: int64 (n, 2) candidates.
        """
        sizes = _candidates(units)
        index = np.full((len(units), max(sizes, default=1)), -1, np.int64)
        rows, seen = [np.empty(0, np.int64)], 0
        for i, (unit, size) in enumerate(zip(units, sizes, strict=True)):
            start = int(unit.starts[0])
            rows += [np.array([start]), np.arange(start + unit.rows[0], start + unit.rows[1])]
            index[i, :size] = np.arange(seen, seen + size)
            seen += size
        target = np.array([unit.target for unit in units], np.int64).reshape(len(units), 2)
        return {"rows": np.concatenate(rows).astype(np.int64), "index": index, "target": target}

    def split(self, logits: np.ndarray, units: list[PlacedUnit]) -> list[np.ndarray]:
        """(m, 2) -> n arrays (candidates, 2)."""
        return np.split(logits, np.cumsum(_candidates(units))[:-1]) if units else []

    def decode(self, outputs, examples, offsets, references, task: Task) -> list[dict]:
        """{"text", "null_difference", "logit"} of each reference, its windows merged.

        `text` is the span of at most 30 tokens with the highest start + end logit of all windows, `logit` that sum,
        `null_difference` the lowest no-answer sum of any window minus `logit` (BERT, arXiv 1810.04805, section 4.3).
        """
        predictions = [{"text": "", "null_difference": 0.0, "logit": 0.0} for _ in references]
        best, null = np.full(len(references), -np.inf), np.full(len(references), np.inf)
        for logits, example, characters in zip(outputs, examples, offsets, strict=True):
            null[example] = min(null[example], float(logits[0].sum()))
            if len(logits) == 1:  # a context without a single piece
                continue
            score, start, end = _best_span(logits[1:])
            if score > best[example]:
                best[example] = score
                span = slice(int(characters[2 * start]), int(characters[2 * end + 1]))
                predictions[example] = {
                    "text": references[example]["context"][span],
                    "null_difference": 0.0,
                    "logit": score,
                }
        for example in np.flatnonzero(np.isfinite(best)):
            predictions[example]["null_difference"] = float(null[example] - best[example])
        return predictions

    def score(self, predictions: list, references: list[dict], task: Task) -> dict[str, float]:
        """SQuAD's exact match and F1 in per cent, by the answer rules of the task's language; see
        `trainer.evaluation.squad`. For tasks of that metric also the `mean` of the two, as XTREME has it."""
        rules = task.answer_rules.get(task.language, "en")
        scores = squad_scores(predictions, references, no_answer=bool(task.labels), language=rules)
        if task.metric == "mean":
            scores["mean"] = (scores["exact_match"] + scores["f1"]) / 2
        return scores


def _offsets(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """int64 (tokens, 2): character offsets without the space that sentencepiece counts to the word after it."""
    trimmed = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        trimmed.append((start, end))
    return np.array(trimmed, np.int64).reshape(-1, 2)


def _gold(example: dict, counts: dict[str, int]) -> tuple[int, int] | None:
    """Characters [start, end) of the first answer; (0, 0) when there is none; None when its text does not occur."""
    if not example["answers"]:
        return 0, 0
    context, stated = example["context"], example["starts"][0]
    text = example["answers"][0]
    stated += len(text) - len(text.lstrip())
    text = text.strip()
    if stated < 0 or not context.startswith(text, stated):
        found = []
        at = context.find(text)
        while at >= 0:
            found.append(at)
            at = context.find(text, at + 1)
        if not found:
            counts["answer_not_found"] += 1
            return None
        counts["answer_moved"] += 1
        stated = min(found, key=lambda place: abs(place - stated))
    return stated, stated + len(text)


def _windows(tokens: int, room: int) -> list[tuple[int, int]]:
    """[low, high) of windows of at most `room` tokens, overlapping by the stride (by half where there is less room)."""
    step = room - min(STRIDE, room // 2)
    count = 1 + max(0, -(-(tokens - room) // step))
    return [(i * step, min(tokens, i * step + room)) for i in range(count)]


def _target(answer: tuple[int, int] | None, offsets: np.ndarray) -> list[int]:
    if answer is None:
        return [IGNORED, IGNORED]
    start, end = answer
    if start == end or not len(offsets) or start < offsets[0, 0] or end > offsets[-1, 1]:
        return [0, 0]
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return [first + 1, last + 1] if first <= last else [0, 0]


def _candidates(units: list[PlacedUnit]) -> list[int]:
    return [1 + int(unit.rows[1] - unit.rows[0]) for unit in units]


def _best_span(logits: np.ndarray) -> tuple[float, int, int]:
    """Score, start and end of the best span; logits (context tokens, 2)."""
    ends = np.concatenate([logits[:, 1], np.full(ANSWER_TOKENS - 1, -np.inf, logits.dtype)])
    band = logits[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, ANSWER_TOKENS)  # (start, length - 1)
    start, length = divmod(int(np.argmax(band)), ANSWER_TOKENS)
    return float(band[start, length]), start, start + length
