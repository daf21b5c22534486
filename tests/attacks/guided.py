"""Readers under attack by changes that coverage guides: `python tests/attacks/guided.py zip -max_total_time=300`.

Needs atheris (`pip install atheris`; Linux). The options are those of libFuzzer. A fault ends it with the bytes in a
file `crash-...`, which is repeated by naming that file behind the target.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "attacks")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import atheris  # noqa: E402

TARGETS = {
    "pickle": ("pickle", "objects", "rows", "torch legacy"),
    "npy": ("npy", "rows", "objects", "labels of clusters"),
    "zip": ("npz", "header", "torch", "analysis"),
    "json": ("annotations", "predictions", "packed", "results", "stated", "folder", "finegym", "metrics"),
}
"""By name, the readers of `hostile_readers` that take such files."""
INSTRUMENTED = [
    "casejax.data",
    "casejax.runtime.reading",
    "casejax.runtime.npy",
    "casejax.report",
    "casejax.inference.judging",
    "casejax.features.writer",
    "casejax.alignment.data",
    "numpy.lib",
    "zipfile",
    "json",
]

with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
    from hostile_readers import READERS
    from refusals import SECONDS, answer


def main():
    target, folder = sys.argv[1], Path(tempfile.mkdtemp())
    readers = [READERS[name] for name in TARGETS[target]]
    corpus = folder / "corpus"
    corpus.mkdir()
    paths = []
    for number, reader in enumerate(readers):
        place = folder / str(number)
        place.mkdir()
        paths.append(reader.write(place))
        (corpus / str(number)).write_bytes(bytes([number]) + paths[-1].read_bytes())

    def test_one(data):
        number = data[0] % len(readers) if data else 0
        assert answer(readers[number], paths[number], data[1:]) < 10 * SECONDS  # instrumented code is slow

    given = sys.argv[2:]
    files = [word for word in given if not word.startswith("-")]
    atheris.Setup([sys.argv[0], *given, *([] if files else [str(corpus)])], test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
