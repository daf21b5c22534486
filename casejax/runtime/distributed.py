"""One run in several processes: joining it, agreeing within it, and ending when one of them is lost."""

from __future__ import annotations

import atexit
import os
import subprocess
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from casejax.errors import OptionError, PeerLostError

OBITUARY = (
    "error: process {index} of {count} ended without finishing, as all do when one of them is lost; the lines above "
    "say which. Start all of them again with --resume, and the run goes on from its last checkpoint"
)


def join(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    distributed: bool = False,
    peer_timeout: int = 60,
) -> None:
    """Join the processes of a run, if the options ask for it; call before anything uses a device.

    Args:
      coordinator: HOST:PORT of process 0; the three go together.
      num_processes: processes in all.
      process_id: which of them this one is, from 0.
      distributed: find the other processes from the cluster that started this one.
      peer_timeout: seconds after which a process that says nothing counts as lost.

    Raises:
      OptionError: options that contradict each other, or no cluster, or no answer from the others.

    Example:
      >>> from casejax import runtime
      >>> runtime.join()  # no options: the process stays alone
    """
    explicit = (coordinator, num_processes, process_id)
    given = [value is not None for value in explicit]
    if any(given) and not all(given):
        raise OptionError(
            "--coordinator, --num-processes and --process-id go together; give all three, or --distributed"
        )
    if not any(given) and not distributed:
        return
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise OptionError(f"--process-id {process_id} is not one of {num_processes} processes; they count from 0")
    try:
        jax.distributed.initialize(
            *explicit,
            initialization_timeout=5 * peer_timeout,
            heartbeat_timeout_seconds=peer_timeout,
            shutdown_timeout_seconds=peer_timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise OptionError(
            f"the processes of the run did not come together ({str(error).splitlines()[0][:200]}); start all of them, "
            "and where no cluster is found, pass --coordinator HOST:PORT --num-processes N --process-id I"
        ) from error
    if jax.process_count() > 1:
        _leave_an_obituary()


def is_first() -> bool:
    """Whether this process is the one that writes, evaluates and prints.

    Example:
      >>> from casejax import runtime
      >>> runtime.is_first()
      True
    """
    return jax.process_index() == 0


def own_part(data_parts: int) -> tuple[int, int]:
    """Which part of the training videos this process has to read, from 0, and of how many.

    With one process, or with batches that are not filled from parts of the videos, it reads all: (0, 1).

    Args:
      data_parts: parts of the videos that fill an equal share of every batch.

    Raises:
      OptionError: parts that the processes cannot share evenly.

    Example:
      >>> from casejax import runtime
      >>> runtime.own_part(4)
      (0, 1)
    """
    count = jax.process_count()
    if data_parts == 1 or count == 1:
        return 0, 1
    if data_parts % count:
        raise OptionError(
            f"--data-parts {data_parts} cannot be shared evenly by {count} processes; choose a multiple of it, or 1"
        )
    return jax.process_index(), count


def largest(value: int) -> int:
    """The greatest of the processes' values; every process must call it.

    Example:
      >>> from casejax import runtime
      >>> runtime.largest(7)
      7
    """
    return value if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(value)).max())


def total_of_parts(counts: np.ndarray) -> int:
    """The sum of counts of which every process knows all, or a part and zeros; every process must call it.

    What several processes know is counted once: the number is that of the data, whatever number of processes reads it.

    Example:
      >>> import numpy as np
      >>> from casejax import runtime
      >>> runtime.total_of_parts(np.array([3, 4]))
      7
    """
    if jax.process_count() > 1:
        counts = multihost_utils.process_allgather(np.asarray(counts, np.int32)).max(axis=0)
    return int(np.asarray(counts, np.int64).sum())


def from_first(value: float) -> float:
    """The first process's value; every process must call it.

    Example:
      >>> from casejax import runtime
      >>> runtime.from_first(0.5)
      0.5
    """
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def wait_for_all(name: str) -> None:
    """Return once every process has called this with the same name, which must be new.

    Example:
      >>> from casejax import runtime
      >>> runtime.wait_for_all("data written")  # at once in a single process
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def raise_peer_lost(error: Exception) -> NoReturn:
    """Turn a failure of the runtime into a `PeerLostError` where there are other processes; else raise it again.

    Example:
      >>> from casejax import runtime
      >>> try:
      ...     runtime.raise_peer_lost(ValueError("not the network"))
      ... except ValueError as error:  # a single process has no peer to lose
      ...     print(error)
      not the network
    """
    if jax.process_count() == 1:
        raise error
    raise PeerLostError(
        f"process {jax.process_index()} of {jax.process_count()} could not go on "
        f"({str(error).splitlines()[0][:300]}); if another process is gone, start all of them again with --resume"
    ) from error


def _leave_an_obituary() -> None:
    """Have a shell say why, should this process end abruptly.

    When a peer is lost the runtime aborts the process from a thread of its own, which no Python code survives.
    """
    message = OBITUARY.format(index=jax.process_index(), count=jax.process_count())
    read, write = os.pipe()
    command = ["sh", "-c", 'read ended || printf "%s\\n" "$0" >&2', message]
    subprocess.Popen(command, stdin=read, stdout=subprocess.DEVNULL, start_new_session=True)
    os.close(read)
    atexit.register(os.write, write, b"ended\n")
