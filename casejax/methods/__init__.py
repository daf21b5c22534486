"""The methods: each is a network, a loss and an inference with their published settings, in one file or folder.

`METHODS` is the list. The clustering head of CASE goes on any of them that has attention: `find("co2net+case")`.
"""

from casejax.errors import OptionError
from casejax.methods import a2cl_pt, acmnet, aicl, asl, basnet, co2net, cola, delu, rskp, student, wtalc
from casejax.methods.case import BASELINE, CASE, VARIANTS, with_head
from casejax.methods.contract import THUMOS14, Foreground, Loss, Method, Outputs, Schedule, Step

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        CASE,
        BASELINE,
        asl.METHOD,
        aicl.METHOD,
        co2net.METHOD,
        delu.METHOD,
        rskp.METHOD,
        rskp.ZHOU,
        wtalc.METHOD,
        basnet.METHOD,
        cola.METHOD,
        acmnet.METHOD,
        a2cl_pt.METHOD,
        student.METHOD,
    )
}
"""By name, as published for THUMOS14; the student is ours."""


DATASETS: tuple[str, ...] = (THUMOS14, *sorted({name for method in METHODS.values() for name in method.datasets}))
"""The data sets that any method has settings for, THUMOS14 first."""


def find(name: str) -> Method:
    """The method of a name; with `+case` at its end, the clustering head of CASE is put on it.

    Raises:
      OptionError: no method of that name, or one that the head cannot be put on.

    Example:
      >>> from casejax import methods
      >>> method = methods.find("co2net+case")
      >>> print(method.name, method.schedule.epochs, method.localization.nms)
      co2net+case 250 soft
      >>> print(method.settings.head.num_clusters)
      16
    """
    base, plus, head = name.partition("+")
    if base not in METHODS or (plus and head != "case"):
        raise OptionError(
            f"method {name!r}: there is none of that name; choose one of {', '.join(METHODS)}, or put the clustering "
            "head on one with attention, such as co2net+case"
        )
    if not plus:
        return METHODS[base]
    if not METHODS[base].has_attention:
        able = ", ".join(f"{name}+case" for name, method in METHODS.items() if method.can_be_clustered)
        raise OptionError(
            f"method {name}: the clustering head refers to attention, {base} has none; choose one of {able}"
        )
    return with_head(METHODS[base])


__all__ = [
    "METHODS",
    "find",
    "with_head",
    "VARIANTS",
    "DATASETS",
    "Method",
    "Schedule",
    "Outputs",
    "Step",
    "Loss",
    "Foreground",
]
