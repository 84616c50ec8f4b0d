"""JupyterLab in a real browser: started on a free port, driven with keys."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from apps.labelling.start import FILES, MANAGER

ROOT = Path(__file__).resolve().parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
PATIENCE = 120_000  # milliseconds; machines are slow and busy


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@contextmanager
def jupyter_lab(folder: Path):
    """The address of a JupyterLab on a folder; its log lies beside it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "JUPYTER_RUNTIME_DIR": str(folder / ".runtime"),
        "IPYTHONDIR": str(folder / ".ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"]
    command += [f"{MANAGER}={FILES}"]
    quiet = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True, exist_ok=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            _wait_for(address, server, folder / "lab.log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=5).read()
            return
        except OSError:
            time.sleep(0.3)


def kernels(address: str) -> list[dict]:
    return json.loads(urllib.request.urlopen(f"{address}/api/kernels", timeout=30).read())


@contextmanager
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class LabellingTab:
    """A tab with a notebook whose grid is labelled with keys alone."""

    def __init__(self, opened, address: str, notebook: str):
        self.page = opened.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(f"{address}/lab/tree/{notebook}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.kernel_is_there()

    def kernel_is_there(self):
        """JupyterLab asks which kernel to use where it is told to run before it has one."""
        self.page.wait_for_function("""() => {
            const session = window.jupyterapp?.shell?.currentWidget?.sessionContext;
            const kernel = session?.session?.kernel;
            return session?.isReady && kernel?.connectionStatus === "connected"
                && kernel.status === "idle" && !document.querySelector(".jp-Dialog");
        }""")

    def run_all(self):
        """As its menu does."""
        self.page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.grid_is_ready()

    def save(self):
        """Before a reload, which shows what was saved."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def grid_is_ready(self):
        self.page.wait_for_selector(".label-grid[data-ready='yes']")

    def focus(self):
        """As with Tab: the grid takes the keys."""
        self.page.evaluate("document.querySelector('.label-grid').focus()")

    @property
    def grid(self):
        return self.page.locator(".label-grid").first

    def shown(self, name: str) -> str:
        return self.grid.get_attribute(f"data-{name}")

    def path(self) -> str:
        """The file of the tile that is shown, once it is."""
        self.grid_is_ready()
        return self.shown("path")

    def press(self, key: str, labelled: int | None = None):
        """Press a key when the grid is ready; wait until so many tiles are labelled."""
        self.grid_is_ready()
        self.page.keyboard.press(key)
        if labelled is not None:
            self.page.wait_for_selector(f".label-grid[data-labelled='{labelled}']")
