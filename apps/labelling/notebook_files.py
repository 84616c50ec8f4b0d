"""Scripts as notebooks in JupyterLab, which are not changed by being opened."""

import sys
from typing import Any

from jupytext import AsyncTextFileContentsManager

# As the kernel adds it to a notebook without it, which JupyterLab then calls changed.
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
    "version": sys.version.split()[0],
}


class NotebookFiles(AsyncTextFileContentsManager):
    """Jupytext's manager of files; scripts name the language, as executed notebooks do."""

    async def get(self, path: str, content: bool = True, *args: Any, **kwargs: Any) -> Any:
        model = await super().get(path, content, *args, **kwargs)
        if content and model["type"] == "notebook":
            model["content"]["metadata"].setdefault("language_info", LANGUAGE)
        return model
