"""A tag for every word: CCG supertagging, parts of speech, named entities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trainer.evaluation.entities import entity_f1
from trainer.tasks.framing import Frame, bare_pieces
from trainer.tasks.spec import PlacedUnit, Task, Unit


class TokenTagging:
    """One sequence a sentence; the head reads the first piece of each word.

    Roles: `words`, `tags`: lists of equal length, or text with spaces between them.
    """

    name = "token_tagging"
    version = 2  # 2: multiword tokens of CoNLL-U files are one token
    roles = ("words", "tags")
    optional_roles = ()

    def outputs(self, task: Task) -> int:
        """One logit a tag."""
        return len(task.labels)

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Keys of `score` that may stand for the task."""
        return ("accuracy", "f1", "precision", "recall")

    def example(self, row: Mapping[str, Any], task: Task) -> dict | None:
        """{"id", "words", "tags"}; None where words and tags are, which a licence hides.

        Raises:
            ValueError: no words, or not one tag a word.
        """
        if row.get("words") is None and row.get("tags") is None:
            return None
        words, tags = _items(row.get("words")), _items(row.get("tags"))
        if not words:
            raise ValueError("no words")
        if len(words) != len(tags):
            raise ValueError(f"{len(words)} words but {len(tags)} tags")
        return {
            "id": str(row.get("id", "")),
            "words": words,
            "tags": [task.label_names.get(tag, tag) for tag in tags],
        }

    def labels(self, examples: Iterable[dict]) -> tuple[str, ...]:
        """The sorted tags of the examples, which are those of the training split."""
        return tuple(sorted({tag for example in examples for tag in example["tags"]}))

    def encode(self, examples: list[dict], first: int, task: Task, tokenizer, counts: dict[str, int]) -> list[Unit]:
        """A unit a sentence, or several where it is longer than the task's limit.

        `rows` are the positions of the words' first pieces, the target their tags' indices, -1 (no loss, scored as
        wrong) for a tag that the training split lacks.

        Counts `split` sentences, `empty_words` (no piece of their own, so given the unknown token), `truncated` words
        (longer than a sequence) and `unseen_tags`.
        """
        frame = Frame.of(tokenizer, texts=1)
        room = task.max_length - frame.size
        tags = {tag: i for i, tag in enumerate(task.labels)}
        sentences = [example["words"] for example in examples]
        if _glues_words(tokenizer):
            sentences = [[words[0], *(f" {word}" for word in words[1:])] for words in sentences]
        encodings = bare_pieces(tokenizer, sentences, is_split_into_words=True)
        units = []
        for i, (example, encoded) in enumerate(zip(examples, encodings, strict=True)):
            words = _pieces_by_word(encoded, len(example["words"]), room, tokenizer.unk_token_id, counts)
            targets = [tags.get(tag, -1) for tag in example["tags"]]
            if -1 in targets:
                counts["unseen_tags"] += targets.count(-1)
            parts = _parts([len(pieces) for pieces in words], room)
            if len(parts) > 1:
                counts["split"] += 1
            for low, high in parts:
                sequence, types = frame.build([piece for pieces in words[low:high] for piece in pieces])
                starts = np.cumsum([frame.begin(), *(len(pieces) for pieces in words[low : high - 1])])
                units.append(
                    Unit(
                        sequences=[sequence],
                        types=[types] if frame.typed else None,
                        target=targets[low:high],
                        rows=starts.tolist(),
                        example=first + i,
                    )
                )
        return units

    def reference(self, example: dict) -> dict:
        """{"id", "words", "tags"}."""
        return example

    def collate(self, units: list[PlacedUnit], task: Task) -> dict[str, np.ndarray]:
        """Arrays of the m words of n sentences.

        `rows`: int64 (m,) first pieces; `target`: int64 (m,) tag indices; `owner`: int64 (m,) which of the n sentences
        a word is of; `units`: int64 (1,) = n.
        """
        none = np.empty(0, np.int64)
        sizes = [len(unit.rows) for unit in units]
        return {
            "rows": np.concatenate([none, *(unit.starts[0] + unit.rows for unit in units)]).astype(np.int64),
            "target": np.concatenate([none, *(unit.target for unit in units)]).astype(np.int64),
            "owner": np.repeat(np.arange(len(units), dtype=np.int64), sizes),
            "units": np.array([len(units)], np.int64),
        }

    def split(self, logits: np.ndarray, units: list[PlacedUnit]) -> list[np.ndarray]:
        """(m, tags) -> n arrays (words,) of the best tag: logits of a dev set with 1,363 tags would be gigabytes."""
        return np.split(logits.argmax(-1), np.cumsum([len(unit.rows) for unit in units])[:-1]) if units else []

    def decode(self, outputs, examples, offsets, references, task: Task) -> list[list[str]]:
        """The tags of each reference's words, the parts of a split sentence joined."""
        predictions: list[list[str]] = [[] for _ in references]
        for tags, example in zip(outputs, examples, strict=True):
            predictions[example] += [task.labels[i] for i in tags.tolist()]
        return predictions

    def score(self, predictions: list, references: list[dict], task: Task) -> dict[str, float]:
        """Share of all words whose tag is right, in per cent; a word without a prediction is wrong.

        For tasks whose metric is another one, also `f1`, `precision` and `recall` of entities
        (`trainer.evaluation.entities`), for which a word without a prediction is outside of any.
        """
        gold = [reference["tags"] for reference in references]
        right = sum(p == g for pair in zip(predictions, gold, strict=True) for p, g in zip(*pair, strict=False))
        scores = {"accuracy": 100 * right / max(1, sum(map(len, gold)))}
        if task.metric != "accuracy":
            padded = [[*tags, *["O"] * (len(g) - len(tags))] for tags, g in zip(predictions, gold, strict=True)]
            scores |= entity_f1(padded, gold)
        return scores


def _items(value: Any) -> list[str]:
    if value is None:
        return []
    return value.split() if isinstance(value, str) else [str(item) for item in value]


def _glues_words(tokenizer) -> bool:
    """Whether words given one by one lack the space before them, as with RoBERTa's byte-level tokenizer."""
    words, text = bare_pieces(tokenizer, [["a", "a"]], is_split_into_words=True), bare_pieces(tokenizer, ["a a"])
    return words[0].ids != text[0].ids


def _pieces_by_word(encoded, words: int, room: int, unknown: int, counts: dict[str, int]) -> list[list[int]]:
    """Each word's pieces: at least one, so that no word vanishes, and at most `room`."""
    pieces: list[list[int]] = [[] for _ in range(words)]
    for piece, word in zip(encoded.ids, encoded.word_ids, strict=True):
        pieces[word].append(piece)
    for word, found in enumerate(pieces):
        if not found:
            pieces[word] = [unknown]
            counts["empty_words"] += 1
        elif len(found) > room:
            pieces[word] = found[:room]
            counts["truncated"] += 1
    return pieces


def _parts(sizes: list[int], room: int) -> list[tuple[int, int]]:
    """[low, high) of consecutive words whose pieces fit into `room`, as many in each as go."""
    bounds, used = [0], 0
    for word, size in enumerate(sizes):
        if used + size > room:
            bounds.append(word)
            used = 0
        used += size
    return list(zip(bounds, [*bounds[1:], len(sizes)], strict=True))
