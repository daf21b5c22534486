"""Files that hold pickles, read without executing them: those of `torch.save`, object arrays of NumPy, plain pickles.

`machine` interprets the opcodes. It makes numbers, strings, containers and arrays, and refuses everything else.
"""

from casejax.data.pickles.numpy_files import read_object_array, read_pickle
from casejax.data.pickles.torch_files import read_torch, write_torch

__all__ = ["read_torch", "write_torch", "read_object_array", "read_pickle"]
