"""Fixtures that several rooms of the tests share."""

import contextlib
import os
from pathlib import Path

import psutil
import pytest

from tests.hosts import virtual_hosts
from tests.launching import DEMO, xstilts

REAL_DATA = Path(__file__).resolve().parents[1] / "../shared/data"


@pytest.fixture(autouse=True)
def own_environment():
    """What a test changes in the environment ends with it: an engine of this process alone says that it is rank 0 of
    one, at an address where no run of several hosts could meet."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def nothing_left():
    """Processes that a failed test has left behind end with it; others would be slowed down by them."""
    own = psutil.Process()
    before = set(own.children(recursive=True))
    yield
    for process in set(own.children(recursive=True)) - before:
        with contextlib.suppress(psutil.Error):
            if process.name() not in ("unshare", "sshd") and "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real labelled files, or a skip."""
    if not REAL_DATA.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return REAL_DATA


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    """The demo recipe's data, prepared once for all runs, as an override."""
    override = f"data.store={tmp_path_factory.mktemp('store')}"
    done = xstilts("prepare", DEMO, override)
    assert done.returncode == 0, done.stderr
    return override


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Two virtual hosts, node1 and node2, or a skip."""
    with virtual_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """An XLM-R-style tokenizer that knows a few English words and falls back to letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = "the a of in is was and to what who where cat dog house city man woman sat ran blue red".split()
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0)]
    pieces += [("▁", -4.0)] + [(f"▁{word}", -3.0) for word in words]
    pieces += [(chr(c), -6.0) for c in range(33, 127)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
