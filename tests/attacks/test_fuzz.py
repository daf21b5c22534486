"""Every reader under random changes of a good file: an answer or one sentence that names the file, soon and small.

The seed is the date, and every failure says it: with CASEJAX_FUZZ_SEED=20260101 in the environment a day is repeated,
with CASEJAX_FUZZ_CASES=100000 more cases are tried.
"""

import datetime
import os
import random
import resource
import time
import warnings

import pytest
from hostile_readers import READERS
from mutations import exchange, mutate

from casejax.errors import DataError, OptionError

SEED = int(os.environ.get("CASEJAX_FUZZ_SEED") or datetime.date.today().strftime("%Y%m%d"))
CASES = int(os.environ.get("CASEJAX_FUZZ_CASES", "2000"))
SECONDS, ROOM = 1.0, 64 << 20


def peak() -> int:
    """Bytes of memory that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attack(name, folder, rng):
    reader = READERS[name]
    path = reader.write(folder)
    good = path.read_bytes()
    reader.read(path)  # what is not changed is read
    slow = 0
    for case in range(-(-CASES // len(READERS))):
        changed = exchange(good, rng) if reader.is_json and rng.random() < 0.6 else mutate(good, rng)
        path.write_bytes(changed)
        where = f"{name}, case {case} of seed {SEED}: {changed[:300]!r}"
        before, since = peak(), time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader.read(path)
        except (DataError, OptionError) as error:
            text = str(error)
            assert str(path.parent) in text or not reader.names_file, f"{where}: does not name the file: {text}"
            assert "\n" not in text, f"{where}: more than a line: {text}"
            assert len(text) < 2000, f"{where}: {len(text)} letters"
        except Exception as error:
            pytest.fail(f"{where}: {type(error).__name__}: {str(error)[:300]}")
        slow += time.process_time() - since > SECONDS
        assert peak() - before < 10 * len(changed) + ROOM, f"{where}: took {peak() - before:,} bytes"
        assert slow < 2, f"{where}: took {time.process_time() - since:.1f} s"  # one may be a pause of the machine


@pytest.mark.parametrize("name", READERS)
def test_no_change_of_a_file_ends_in_anything_but_a_sentence(name, tmp_path):
    attack(name, tmp_path, random.Random(f"{SEED} {name}"))
