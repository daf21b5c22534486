"""Words of annotations: `Float[Array, "n m"]` is an array of floats of the shape (N, M).

They are jaxtyping's, which casejax does not need. Without it, and for type checkers, they mean the type of the array,
with kind and shape as a note: `Annotated[Array, Float, "n m"]`. Where jaxtyping was imported before casejax they are
its own types, so that its import hook checks every call.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
    from typing import Annotated as Key
    from typing import Annotated as Num
    from typing import Annotated as Real
    from typing import Annotated as Shaped
    from typing import Annotated as UInt8

    from jax import Array

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Num", "Real", "Shaped", "UInt8"]


class _Kind:
    """What the elements of an array are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __getitem__(self, array_and_shape: tuple[Any, str]) -> Any:
        array, shape = array_and_shape
        return Annotated[importlib.import_module("jax").Array if array is _Later else array, self, shape]


class _Later:
    """JAX's Array where jax is not loaded, and modules of NumPy alone must not load it: found when a type is made."""


if not TYPE_CHECKING:
    _KINDS = {name: _Kind(name) for name in __all__ if name != "Array"}

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if "jaxtyping" in sys.modules:
            return getattr(sys.modules["jaxtyping"], name)
        if name == "Array":
            return sys.modules["jax"].Array if "jax" in sys.modules else _Later
        return _KINDS[name]
