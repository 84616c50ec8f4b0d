"""JSON that nobody vouches for."""

import json
import re
from pathlib import Path
from typing import Any


def read_json(file: Path, what: str) -> Any:
    """The content of a file in UTF-8, with a byte-order mark or without; what: it is, in words.

    Raises ValueError naming the file for what is no JSON, is nested too deeply, or holds half of a
    character (a lone surrogate), which could not be written again; and OSError.
    """
    try:
        text = file.read_text("utf-8-sig")
        values = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{file} is no {what}: it holds half of a character") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no {what}: it is not UTF-8") from None
    except RecursionError:
        raise ValueError(f"{file} is no {what}: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{file} is no {what}: {error}") from error
    return values
