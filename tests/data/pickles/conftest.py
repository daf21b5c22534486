"""Reading a pickle in a file of either format of `torch.save`."""

import pytest
from pickle_samples import stream_bytes, zip_bytes

from casejax.data.pickles.torch_files import read_torch


@pytest.fixture(params=[zip_bytes, stream_bytes], ids=["zip", "stream"])
def read(request, tmp_path):
    """Read a pickle's body in a file of either format."""

    def read(body, storages=None):
        path = tmp_path / "x.pkl"
        path.write_bytes(request.param(body, storages))
        return read_torch(path)

    return read
