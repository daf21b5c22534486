"""What a reader may do with any file: give a value, or refuse it in one sentence, soon and in little memory."""

import resource
import time
import warnings

from casejax.errors import CheckpointError, DataError, OptionError

SECONDS, ROOM = 1.0, 64 << 20


def peak():
    """Bytes of memory that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(reader, path, data):
    """Have a file of these bytes read; returns the seconds it took, of this process alone.

    Raises:
      AssertionError: it ended in anything but a value or a sentence, or took too much memory.
    """
    path.write_bytes(data)
    before, since = peak(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except (DataError, OptionError, CheckpointError) as error:
        text = str(error)
        assert str(path.parent) in text or not reader.names_file, f"does not name the file: {text}"
        assert "\n" not in text, f"more than a line: {text}"
        assert len(text) < 2000, f"{len(text)} letters"
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}") from error
    taken = time.process_time() - since
    assert peak() - before < 10 * len(data) + ROOM, f"took {peak() - before:,} bytes"
    return taken
