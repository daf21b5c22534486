"""Two processes of one run on this machine, over loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PATIENCE = 120  # seconds until a process counts as hung
PEER_TIMEOUT = 10
ONE_PROCESS = Path(__file__).parents[1] / "train" / "one_process.py"


def start(root, out, config, *extra):
    """Two processes of two CPU devices each, on the data set `root`; `out/stderr0` and `1` are what they say."""
    out.mkdir(exist_ok=True)
    (out / "config.json").write_text(json.dumps(config.as_dict()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        # of a flag given twice the last counts
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, ONE_PROCESS, root, out, out / "config.json"]
    flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--peer-timeout", str(PEER_TIMEOUT), *extra]
    return [
        subprocess.Popen(
            [*command, out / f"report{i}", "--process-id", str(i), *flags],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(out / f"stderr{i}").open("w"),
        )
        for i in range(2)
    ]


def finish(processes):
    """Exit statuses, once all have ended."""
    try:
        return [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()


def losses(out):
    """Of every line of a run's log."""
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
