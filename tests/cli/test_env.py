"""`casejax env`, and the run in short."""

import json
import subprocess
from pathlib import Path

from casejax.cli.main import main

ROOT = Path(__file__).parent.parent.parent


def test_env_says_what_a_bug_report_needs(capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/home/somebody/cache")
    monkeypatch.setenv("JAX_ENABLE_CHECKS", "0")
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert "devices: cpu:0" in printed
    assert "  numpy " in printed
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["variables"]["JAX_ENABLE_CHECKS"] == "0"
    assert "somebody" not in json.dumps(found)
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert head.returncode or found["revision"] == head.stdout.strip()


def test_the_demo_is_of_the_embedded_world(tmp_path, capsys):
    assert main(["train", "--demo", "--data", str(tmp_path)]) == 2
    assert "--demo is the embedded world in short; leave it out, or the data" in capsys.readouterr().err
