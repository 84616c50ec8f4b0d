"""The process of a notebook, which ends with the one that started it.

    python -m lib.kernel -f <connection file>

ipykernel looks after its parent too, but not before all is imported: a kernel whose parent was
killed until then stays for ever where orphans are adopted by another process than the first, as
below systemd.
"""

import os
import sys
import threading
import time


def end_with(parent: int) -> None:
    """End this process when it is no longer the child of another one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with(int(os.environ["JPY_PARENT_PID"]))
    del sys.path[0]  # as ipykernel's own launcher does
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
