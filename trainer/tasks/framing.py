"""The special tokens around one text or a pair of texts, learnt from the tokenizer itself.

Formats that cut texts in their own way (a prompt from the left, a context into windows, a sentence between words) work
on bare pieces and put them into a `Frame`; no call of theirs depends on a truncation side set on the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frame:
    """Special tokens before, between and after `texts` texts.

    Attributes:
        parts: token ids of each gap, one more than there are texts.
        part_types: token type ids of those.
        text_types: token type id of each text's pieces.
        typed: whether the model takes token type ids at all.
    """

    parts: tuple[tuple[int, ...], ...]
    part_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]
    typed: bool

    @classmethod
    def of(cls, tokenizer, texts: int) -> Frame:
        """The frame a fast tokenizer puts around one text or two."""
        encoded = tokenizer(*["a"] * texts, return_token_type_ids=True)
        parts: list[list[int]] = [[] for _ in range(texts + 1)]
        part_types: list[list[int]] = [[] for _ in range(texts + 1)]
        text_types = [0] * texts
        gap = 0
        columns = encoded["input_ids"], encoded["token_type_ids"], encoded.sequence_ids(0)
        for token, kind, text in zip(*columns, strict=True):
            if text is None:
                parts[gap].append(token)
                part_types[gap].append(kind)
            else:
                gap = text + 1
                text_types[text] = kind
        typed = "token_type_ids" in tokenizer.model_input_names
        return cls(tuple(map(tuple, parts)), tuple(map(tuple, part_types)), tuple(text_types), typed)

    @property
    def size(self) -> int:
        """Special tokens in all."""
        return sum(map(len, self.parts))

    def begin(self, *texts: list[int]) -> int:
        """Position at which the text that follows `texts` begins."""
        return sum(map(len, texts)) + sum(map(len, self.parts[: len(texts) + 1]))

    def build(self, *texts: list[int]) -> tuple[list[int], list[int] | None]:
        """Token ids of one sequence, and its type ids where the model takes them."""
        tokens, types = list(self.parts[0]), list(self.part_types[0])
        for text, kind, part, part_types in zip(
            texts, self.text_types, self.parts[1:], self.part_types[1:], strict=True
        ):
            tokens += [*text, *part]
            types += [*[kind] * len(text), *part_types]
        return tokens, types if self.typed else None


def bare_pieces(tokenizer, texts: list, **options: Any) -> list:
    """`tokenizers.Encoding` of each text, without special tokens and uncut, whatever its length."""
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, verbose=False, **options).encodings


def text_of(row, role: str) -> str:
    """The text of a role.

    Raises:
        ValueError: it is missing, not text, or blank.
    """
    value = row.get(role)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{role} is empty" if value in (None, "") or isinstance(value, str) else f"{role} is not text")
    return value
