"""No test reaches the network or writes into the repository."""

import os
import signal
import sys

import pytest

os.environ.pop("OUTPUT_ROOT", None)  # of who runs the tests
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub client is imported
sys.modules.setdefault("rfc3987_syntax", None)  # as in lib/runner.py
if "PYTEST_XDIST_WORKER" in os.environ:  # two threads each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = ("test_own_tiles.py", "test_slide_chain.py", "test_chain.py")


def pytest_collection_modifyitems(items):
    """The longest files start first, so that the others run beside them."""
    items.sort(key=lambda item: -1 - LONGEST.index(n) if (n := item.path.name) in LONGEST else 0)


@pytest.fixture(autouse=True)
def output_root(tmp_path, monkeypatch):
    """Where everything goes that the code under test writes."""
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def main(monkeypatch):
    """`python -m lib.runner` in this process, without a start of seconds; what it sets goes."""
    from lib import runner

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    for name, value in (runner.KEEP_BUFFERS | runner.NO_BARS).items():
        monkeypatch.setenv(name, value)
    yield lambda *arguments: runner.main([*map(str, arguments)])
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def write_card(tmp_path, monkeypatch):
    """Write the card "toy" to a folder of its own and read it."""
    import yaml

    from lib import paths
    from lib.data import cards

    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(paths, "card_file", lambda dataset: folder / f"{dataset}.yaml")

    def write(values):
        text = values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False)
        (folder / "toy.yaml").write_text(text)
        return cards.read_card("toy")

    return write


TOY = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A toy

# %% tags=["parameters"]
dataset = "toy"  # a card
vlm = "none/at all"
seed = 0
rate = 0.5
share = -1
note = "plain"
tags = ["a", "b"]
"""


@pytest.fixture
def write_notebook(tmp_path, monkeypatch):
    """Write notebooks/<name>.py with a body; parameter files are looked up beside it."""
    from lib import paths

    folder = tmp_path / "notebooks"
    (folder / "params").mkdir(parents=True)
    monkeypatch.setattr(paths, "params_file", lambda dataset: folder / "params" / f"{dataset}.yaml")

    def write(body="", name="10_toy", header=TOY):
        file = folder / f"{name}.py"
        file.write_text(
            header + "".join(f"\n# %%\n{cell}\n" for cell in body.split("\n\n") if cell)
        )
        return file

    return write
