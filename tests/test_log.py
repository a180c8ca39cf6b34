"""Messages and progress bars go on whatever happens to the processes beside this one."""

from __future__ import annotations

import os
import signal
import threading

from tqdm import tqdm

from kdsr_arch.log import progress_bar


def test_a_forked_process_killed_in_the_middle_of_a_message_stops_nobody() -> None:
    lock = tqdm.get_lock()
    child = os.fork()
    if child == 0:
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    went_on = threading.Thread(target=lambda: progress_bar("test", 3).close(), daemon=True)
    went_on.start()
    went_on.join(20)
    assert not went_on.is_alive()
