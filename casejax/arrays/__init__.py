"""What public functions of JAX arrays do with their arguments first, and what lets them run on meshes.

`ot` has its own, so that it can be copied alone.
"""

from casejax.arrays.arguments import as_floats, as_mask, as_whole, check_index, check_number, refuse_nan, takes
from casejax.arrays.placement import on_any_mesh, varying_as

__all__ = [
    "takes",
    "as_floats",
    "as_whole",
    "as_mask",
    "check_number",
    "check_index",
    "refuse_nan",
    "on_any_mesh",
    "varying_as",
]
