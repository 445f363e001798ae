import pytest

from tests.launching import DEMO, xstilts


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    """The demo recipe's data, prepared once for all runs, as an override."""
    override = f"data.store={tmp_path_factory.mktemp('store')}"
    done = xstilts("prepare", DEMO, override)
    assert done.returncode == 0, done.stderr
    return override
