"""Configurations of bases: their published settings for THUMOS14 as options of a run."""

from __future__ import annotations

from typing import Any

from casejax.errors import OptionError
from casejax.methods import BASES
from casejax.methods.a2cl_pt import method as a2cl_pt
from casejax.methods.a2cl_pt.network import A2CLPTNet
from casejax.methods.case.method import SHARED
from casejax.methods.contract import parameters_of
from casejax.run.config import Config


def with_base(config: Config, name: str, *, case: bool = False) -> Config:
    """A configuration with a base's published settings in the place of CASE's.

    Only omega in training stays that of `config`: it is what the variants of CASE differ in; in `official` it is 1/3,
    as in the bases that have it.

    Args:
      config: where the options of CASE come from, such as a variant.
      name: of the base.
      case: attach the clustering head.

    Raises:
      OptionError: no base of that name, or one that the head cannot be attached to.
    """
    if name == "case":
        return config.changed(base=name, case=False)
    if name not in (*BASES, "a2cl_pt"):
        raise OptionError(f"base must be one of case, {', '.join(BASES)}, a2cl_pt, got {name!r}")
    if case:
        check_head(name)
    if name == "a2cl_pt":
        settings: Any = a2cl_pt.THUMOS14
        network: Any = A2CLPTNet
        options: dict[str, Any] = a2cl_pt.OPTIONS
    else:
        base = BASES[name]
        settings, network, options = base.settings, base.network, dict(base.options)
        if base.case_cas_weight is not None:
            options["test_cas_weight"] = base.case_cas_weight if case else settings.cas_weight
    values = vars(settings.schedule) | vars(settings.localization) | options
    values |= {key: getattr(settings, key) for key in SHARED if hasattr(settings, key) and key != "cas_weight"}
    return config.changed(base=name, case=case, hidden=parameters_of(network)["hidden"].default, **values)


def check_head(name: str) -> None:
    """Refuse a base that has nothing for the clustering head to refer to. CASE in one program has the head anyway.

    Raises:
      OptionError: naming the bases that have.
    """
    if name != "case" and (name == "a2cl_pt" or not BASES[name].has_attention):
        able = ", ".join(other for other, base in BASES.items() if base.has_attention)
        raise OptionError(f"--case needs the attention of a base, and {name} has none; choose one of {able}")


def check_whole_set(config: Config) -> None:
    """Refuse Q^C of the whole train split for a base; it is computed for CASE in one program alone.

    Raises:
      OptionError: naming the remedy.
    """
    if config.inference.test_cluster_labels == "train" and config.network.base != "case":
        raise OptionError(
            f"--test-cluster-labels train is for CASE in one program; leave it out with --base {config.network.base}"
        )
