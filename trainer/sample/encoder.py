"""A tiny encoder with random weights and a tokenizer trained on the sample, as a Hugging Face folder."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

VOCABULARY = 4000
SEED = 0
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # XLM-R's order, ids 0 to 3; <mask> comes last


def sample_encoder(folder: Path, sample_folder: Path) -> None:
    """Write an XLM-R style encoder (3 layers, 128 wide, about 1.1 million weights) with its tokenizer.

    Everything goes to a temporary folder that is renamed when it is complete; where another process was faster, its
    folder stays.

    Args:
        folder: where `AutoModel` and `AutoTokenizer` will find it.
        sample_folder: what `trainer.sample.write_sample` wrote; its text trains the tokenizer.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tokenizer = fast_tokenizer(train_sentencepiece(sample_folder))
        tokenizer.save_pretrained(temporary)
        config = XLMRobertaConfig(
            vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=512, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
            bos_token_id=0, pad_token_id=1, eos_token_id=2,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(temporary)
        os.replace(temporary, folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def train_sentencepiece(sample_folder: Path) -> bytes:
    """A serialised unigram model (at most `VOCABULARY` pieces) of the sample's text; equal for equal samples."""
    import sentencepiece

    sentencepiece.set_random_generator_seed(SEED)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted(set(sample_text(sample_folder)))),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        character_coverage=0.9999,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def fast_tokenizer(model: bytes):
    """The `XLMRobertaTokenizer` that cuts text as the serialised SentencePiece model does.

    XLM-R's ids: `SPECIAL`, then the model's pieces without its own three special ones, then <mask>.
    """
    from sentencepiece import sentencepiece_model_pb2
    from transformers import XLMRobertaTokenizer

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces if piece.type == piece.NORMAL]
    vocab = [*((name, 0.0) for name in SPECIAL), *pieces, ("<mask>", 0.0)]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    return XLMRobertaTokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap, model_max_length=512)


def sample_text(sample_folder: Path) -> Iterator[str]:
    """Every sentence of the tasks' files, without their markup; some more than once.

    The plain text of `mlm` has no word that they lack, and is left out: the tokenizer, and the runs that were made with
    it, stay what they were.
    """
    for path in sorted(p for p in Path(sample_folder).rglob("*") if p.is_file() and p.parent.name != "mlm"):
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".json", ".jsonl"):
            for line in text.splitlines():
                yield from filter(_is_sentence, _strings(json.loads(line)))
        elif path.suffix == ".auto":
            yield from (" ".join(re.findall(r"(\S+) \S+>\)", line)) for line in text.splitlines() if "<L" in line)
        elif path.suffix == ".conllu":
            yield from re.findall(r"^# text = (.*)$", text, flags=re.MULTILINE)
        elif path.parent.parent.name == "panx":
            yield from (" ".join(re.findall(r":(\S+)\t", sentence)) for sentence in text.split("\n\n") if sentence)
        else:
            yield from filter(_is_sentence, re.split(r"[\t\n]", text))


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _is_sentence(text: str) -> bool:
    """Ids and labels have neither spaces nor Chinese characters."""
    return " " in text or any("\u4e00" <= character <= "\u9fff" for character in text)
