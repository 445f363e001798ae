from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoModel, AutoTokenizer

from trainer.sample import write_sample
from trainer.sample.encoder import sample_encoder, sample_text, train_sentencepiece


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(sample, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "sample-encoder"
    sample_encoder(folder, sample)
    return folder


def test_tokenizer_cuts_as_sentencepiece_does(sample, encoder):
    reference = sentencepiece.SentencePieceProcessor(model_proto=train_sentencepiece(sample))
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    vocab = tokenizer.get_vocab()
    texts = sorted(set(sample_text(sample)))
    assert len(texts) > 5000
    odd = ["  ｆｕｌｌ  width ① é e\u0301 ", "Ωμέγα 漢字 😀😀 x", "a\tb\u00a0c", "it's 23,000!"]
    for text in texts[::7] + odd:
        pieces = [piece if reference.piece_to_id(piece) else "<unk>" for piece in reference.encode(text, out_type=str)]
        assert [piece if piece in vocab else "<unk>" for piece in tokenizer.tokenize(text)] == pieces, text


def test_ids_are_xlm_r_s(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    assert tokenizer.is_fast
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    ids = tokenizer("Anna drinks tea.", "Anna sleeps.")["input_ids"]
    assert ids[0] == 0 and ids[-1] == 2
    middle = ids.index(2)
    assert ids[middle + 1] == 2  # <s> A </s></s> B </s>
    assert 3 not in ids


def test_encoder_loads_and_is_the_same_each_time(sample, encoder, tmp_path):
    sample_encoder(tmp_path / "again", sample)
    first, second = (AutoModel.from_pretrained(f, add_pooling_layer=False) for f in (encoder, tmp_path / "again"))
    weights = second.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.state_dict().items())
    assert (encoder / "tokenizer.json").read_bytes() == (tmp_path / "again/tokenizer.json").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    assert first.config.vocab_size == len(tokenizer) and first.config.max_position_embeddings == 514
    hidden = first(**tokenizer("安娜喝茶。", return_tensors="pt")).last_hidden_state
    assert hidden.shape[-1] == 128 and hidden.isfinite().all()


def test_nothing_half_written_stays(encoder, tmp_path):
    assert [path.name for path in encoder.parent.iterdir()] == [encoder.name]
    with pytest.raises(RuntimeError):  # no text to train on
        sample_encoder(tmp_path / "encoder", tmp_path / "empty")
    assert list(tmp_path.iterdir()) == []
