"""Loading an encoder: a BERT, RoBERTa, XLM-R or XLM-R-XL style Hugging Face model, or random weights of its shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

from trainer.config import RunConfig
from trainer.errors import UserError

# Where positions begin: RoBERTa's kind reserves the padding index and what is below it.
FROM_ZERO = ("bert",)
AFTER_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
_LM_HEADS = ("lm_head.", "cls.")  # where transformers' models for masked LM keep their heads


def _shape(hidden: int, layers: int, heads: int, inner: int, vocabulary: int = 250002) -> dict[str, int | float]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    }


SHAPES = {  # sizes of the published checkpoints (arXiv 1911.02116, 2105.00572), for random weights without a hub
    "xlm-roberta-base": ("xlm-roberta", _shape(768, 12, 12, 3072)),
    "xlm-roberta-large": ("xlm-roberta", _shape(1024, 24, 16, 4096)),
    "xlm-roberta-xl": ("xlm-roberta-xl", _shape(2560, 36, 32, 10240, 250880)),
    "xlm-roberta-xxl": ("xlm-roberta-xl", _shape(4096, 48, 32, 16384, 250880)),
}


@dataclass(frozen=True)
class KeyReport:
    """Parameter names of a checkpoint against the encoder's."""

    loaded: int
    new: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        def some(names):
            return f"{len(names)}" + (f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "")

        return f"encoder weights: {self.loaded} loaded, {some(self.new)} new, {some(self.ignored)} ignored"


def encoder_folder(config: RunConfig) -> str:
    """The encoder's name or folder; the built-in one is made on first use."""
    if config.model.encoder != "sample":
        return config.model.encoder
    from trainer.data.sources import sample_folder
    from trainer.sample.encoder import sample_encoder

    folder = Path(config.data.store) / "sample-encoder"
    if not (folder / "config.json").is_file():
        with quiet_transformers():
            sample_encoder(folder, sample_folder(config.data))
    return str(folder)


def load_tokenizer(config: RunConfig):
    """The fast tokenizer of the recipe's encoder (or of `model.tokenizer`).

    Raises:
        UserError: not found, the hub is out of reach, or there is no fast tokenizer.
    """
    name = config.model.tokenizer or encoder_folder(config)
    if name == "sample":
        from dataclasses import replace

        name = encoder_folder(replace(config, model=replace(config.model, encoder="sample")))
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, revision=config.model.revision)
        except (OSError, ValueError) as error:
            raise _not_loaded("tokenizer", name, error, "model.tokenizer=FOLDER_OR_NAME") from None
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {name} is not a fast one", why="preparing needs character offsets")
    return tokenizer


def fetch_encoder(config: RunConfig) -> bool:
    """Have the hub's cache hold what `load_encoder` reads, so that it needs no network; the weights are not loaded.
    Whether there is anything to fetch.

    Raises:
        UserError: as `load_encoder`, but for missing weights.
    """
    name, revision = config.model.encoder, config.model.revision
    if name == "sample" or Path(name).is_dir():
        return False
    encoder_config(config, name)
    if config.model.init == "random":
        return name not in SHAPES
    try:
        for whole, index in ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
            if _cached(name, whole, revision):
                return True
            if _cached(name, index, revision):
                get_checkpoint_shard_files(name, _cached(name, index, revision), revision=revision)
                return True
        raise OSError(f"it has neither {SAFE_WEIGHTS_NAME} nor {WEIGHTS_NAME}, whole or in parts")
    except (OSError, ValueError) as error:
        raise _not_loaded("weights", name, error, "model.encoder=FOLDER, or model.init=random") from None


def load_encoder(config: RunConfig, attention: str) -> tuple[torch.nn.Module, KeyReport]:
    """The encoder in fp32 on the CPU, without a pooler, and what became of its checkpoint's keys.

    Raises:
        UserError: not found, hub out of reach, unsupported architecture, or weights missing from the checkpoint.
    """
    return _load(config, attention, AutoModel, add_pooling_layer=False)


def load_masked_lm(config: RunConfig, attention: str) -> tuple[torch.nn.Module, KeyReport]:
    """transformers' model for masked LM, whose `base_model` is what `load_encoder` gives; where the checkpoint has no
    head for it, the report's `new` names the head's weights.

    Raises:
        UserError: as `load_encoder`.
    """
    return _load(config, attention, AutoModelForMaskedLM)


def _load(config: RunConfig, attention: str, kind, **options) -> tuple[torch.nn.Module, KeyReport]:
    name = encoder_folder(config)
    settings = encoder_config(config, name)
    settings._attn_implementation = attention
    options |= {"dtype": torch.float32, "attn_implementation": attention}
    with quiet_transformers():
        if config.model.init == "random":
            torch.manual_seed(config.seed)
            model = kind.from_config(settings, **options)
            return model, KeyReport(0, tuple(n for n, _ in model.named_parameters()), ())
        try:
            model, info = kind.from_pretrained(
                name, config=settings, revision=config.model.revision, output_loading_info=True, **options
            )
        except SafetensorError as error:
            raise damaged_weights(name, error) from None
        except (OSError, ValueError, RuntimeError) as error:
            raise _not_loaded("weights", name, error, "model.encoder=FOLDER, or model.init=random") from None
    absent = sorted(info["missing_keys"])
    missing = [key for key in absent if not key.startswith(_LM_HEADS)]
    if missing:
        raise UserError(
            f"the checkpoint {name} lacks {len(missing)} of the encoder's weights: {', '.join(missing[:3])}, ...",
            why="they would silently be random",
            fix="check model.encoder; for random weights throughout: model.init=random",
        )
    new = tuple(absent)  # of the masked LM head alone
    loaded = sum(name not in new for name, _ in model.named_parameters())
    return model, KeyReport(loaded, new, tuple(sorted(info["unexpected_keys"])))


def position_offset(encoder_config) -> int:
    """What to add to positions counted from 0."""
    return encoder_config.pad_token_id + 1 if encoder_config.model_type in AFTER_PADDING else 0


def encoder_config(config: RunConfig, name: str):
    """The transformers configuration of the encoder `name`, with the recipe's dropout; its weights are not touched.

    Raises:
        UserError: not found, hub out of reach, or an unsupported architecture.
    """
    if config.model.init == "random" and name in SHAPES:
        kind, sizes = SHAPES[name]
        settings = AutoConfig.for_model(kind, **sizes)
    else:
        try:
            settings = AutoConfig.from_pretrained(name, revision=config.model.revision)
        except (OSError, ValueError) as error:
            raise _not_loaded(
                "config", name, error, f"model.encoder=FOLDER; with model.init=random also: {', '.join(SHAPES)}"
            ) from None
    if settings.model_type not in FROM_ZERO + AFTER_PADDING:
        raise UserError(
            f"encoder {name} is of type {settings.model_type!r}, which packed attention has not been checked with",
            fix=f"one of: {', '.join(FROM_ZERO + AFTER_PADDING)}",
        )
    if config.model.dropout is not None:
        settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = config.model.dropout
    return settings


def _cached(name: str, file: str, revision: str) -> str | None:
    """A file of the hub's, fetched if need be; None if the model has none of that name."""
    return cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)


def _not_loaded(what: str, name: str, error: Exception, fix: str) -> UserError:
    reason = str(error).strip().splitlines()
    return UserError(f"cannot load the {what} of {name!r}", why=reason[0] if reason else type(error).__name__, fix=fix)


def damaged_weights(name: str | Path, error: Exception) -> UserError:
    """Of a file or folder with safetensors that are cut short or changed."""
    fix = "copy or download it again; an export of a run: xstilts export RUN FOLDER"
    return UserError(f"the weights in {name} are damaged", why=" ".join(str(error).split()), fix=fix)


class quiet_transformers:
    """Keeps transformers' progress bars and reports off the terminal; what matters is in KeyReport."""

    def __enter__(self):
        self.verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def __exit__(self, *_):
        transformers.logging.set_verbosity(self.verbosity)
        transformers.logging.enable_progress_bar()
