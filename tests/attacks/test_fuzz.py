"""Every reader under random changes of a good file: an answer or one sentence that names the file, soon and small.

The seed is the date, and every failure says it: with CASEJAX_FUZZ_SEED=20260101 in the environment a day is repeated,
with CASEJAX_FUZZ_CASES=100000 more cases are tried.
"""

import datetime
import os
import random

import pytest
from hostile_readers import READERS
from mutations import exchange, mutate
from refusals import SECONDS, answer

SEED = int(os.environ.get("CASEJAX_FUZZ_SEED") or datetime.date.today().strftime("%Y%m%d"))
CASES = int(os.environ.get("CASEJAX_FUZZ_CASES", "2000"))


@pytest.mark.parametrize("name", READERS)
def test_no_change_of_a_file_ends_in_anything_but_a_sentence(name, tmp_path):
    rng, reader = random.Random(f"{SEED} {name}"), READERS[name]
    path = reader.write(tmp_path)
    good = path.read_bytes()
    reader.read(path)  # what is not changed is read
    slow = 0
    for case in range(-(-CASES // len(READERS))):
        changed = exchange(good, rng) if reader.is_json and rng.random() < 0.6 else mutate(good, rng)
        where = f"{name}, case {case} of seed {SEED}: {changed[:300]!r}"
        try:
            taken = answer(reader, path, changed)
        except AssertionError as error:
            pytest.fail(f"{where}: {error}")
        slow += taken > SECONDS
        assert slow < 2, f"{where}: took {taken:.1f} s"  # one may be a pause of the machine
