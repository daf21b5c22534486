"""What a run is: a method with its settings, how it trains and localises, and where it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from casejax.errors import DataError, OptionError
from casejax.methods import METHODS, Method, find
from casejax.methods.contract import THUMOS14, Number, Schedule
from casejax.records import Dataset, Localization, option
from casejax.runtime.reading import brief


@dataclass(frozen=True)
class Training:
    """Seed, devices, checkpoints and the choice of a step."""

    seed: int = option(0, "seed of parameters, order and sampling")
    log_every: int = option(12, "steps a line of metrics.jsonl; that many run in one dispatch", within="[1, inf)")
    checkpoint_every: int = option(120, "steps between checkpoints, rounded up to a log step", within="[1, inf)")
    select: Literal["last", "train-holdout", "test-oracle"] = option(
        "last", "the model to evaluate: the last step's, or the best by mAP on held-out training videos or on test"
    )
    select_every: int = option(
        50, "steps between the candidates of a selection", within="[1, inf)", when=lambda o: o.select != "last"
    )
    holdout: float = option(
        0.2,
        "share of the training videos that --select train-holdout sets aside",
        within="(0, 1)",
        when=lambda o: o.select == "train-holdout",
    )
    data_parts: int = option(
        1, "contiguous parts of the training videos that fill an equal share of every batch", within="[1, inf)"
    )
    model_devices: int = option(
        1, "devices that share one copy of the network, split over its hidden dimension", within="[1, inf)"
    )
    log: Literal["none", "csv", "tensorboard", "wandb"] = option(
        "none", "where metrics go besides metrics.jsonl: metrics.csv, TensorBoard's event files, or Weights & Biases"
    )
    feed: Literal["auto", "device", "stream"] = option(
        "auto",
        "features stay on the device and are sampled there, or are streamed a batch at a time; auto: if they fit",
    )
    on_nan: Literal["stop", "skip"] = option(
        "stop", "what a step does that ends in values that are not finite: stop the run, or change nothing"
    )


class Option(NamedTuple):
    """One option of a configuration.

    Attributes:
      name: unique in the configuration.
      value: what it is set to.
      group: the heading it stands under: "settings", "head", "schedule", "localization" or "training".
      hint: its type.
      owner: the dataclass it is a field of.
      field: that field.
    """

    name: str
    value: Any
    group: str
    hint: Any
    owner: Any
    field: Field[Any]

    @property
    def acts(self) -> bool:
        """Whether it has any effect, given the others of its group."""
        when = self.field.metadata.get("when")
        return when is None or bool(when(self.owner))

    @property
    def of_inference(self) -> bool:
        """Whether a trained network can change it."""
        return self.group == "localization" or bool(self.meta("inference"))

    def meta(self, name: str) -> Any:
        """What `records.option` was told of it."""
        return self.field.metadata.get(name)


@dataclass(frozen=True)
class Config:
    """All that decides the outcome of a run, given its data.

    Attributes:
      method: what is trained.
      variant: the name of the set of options this one started from, of the method's variants.
      dataset: the name of the data set whose options this one started from.
      settings: the method's own.
      schedule: how long, how fast and on what it trains.
      localization: how its scores become segments.
      training: seed, devices, checkpoints and the choice of a step.
    """

    method: Method
    variant: str
    dataset: str
    settings: Any
    schedule: Schedule
    localization: Localization
    training: Training = Training()

    @classmethod
    def of(cls, name: str = "case", variant: str = "official", dataset: str = THUMOS14, **values: Any) -> Config:
        """The published configuration of a method, with the options of a data set, a variant and others changed.

        Args:
          name: of the method; with `+case`, the clustering head of CASE is put on it.
          variant: one of the method's; "official" is the published program. Where a data set changes the same
            option, the variant has the last word.
          dataset: one that the method has settings for; "thumos14" changes nothing.
          **values: options to change, by name.

        Raises:
          OptionError: a method, variant, data set or option that does not exist.
        """
        method = find(name)
        if variant != "official" and variant not in method.variants:
            has = ", ".join(method.variants) or "none"
            raise OptionError(f"variant {variant}: method {method.name} has no such variant; it has {has}")
        if dataset != THUMOS14 and dataset not in method.datasets:
            has = ", ".join((THUMOS14, *method.datasets))
            able = ", ".join(other.name for other in METHODS.values() if dataset in other.datasets)
            raise OptionError(
                f"dataset {dataset}: method {method.name} has no settings for it; it has those for {has}"
                + (f", and those for {dataset} belong to {able}" if able else "")
            )
        start = cls(method, variant, dataset, method.settings, method.schedule, method.localization)
        known = start.flat()
        changes = {name: value for name, value in method.variants.get(variant, {}).items() if name in known}
        return start.changed(**method.datasets.get(dataset, {})).changed(**changes).changed(**values)

    def options(self) -> Iterator[Option]:
        """Every option, the method's own first."""
        for group, owner in self.groups():
            hints = get_type_hints(type(owner))
            for own in fields(owner):
                yield Option(own.name, getattr(owner, own.name), group, hints[own.name], owner, own)

    def groups(self) -> list[tuple[str, Any]]:
        """The dataclasses of options with their headings; of a method with the clustering head, settings are two."""
        own = [("settings", self.settings)]
        if any(is_dataclass(value) for value in vars(self.settings).values()):
            own = [("settings", self.settings.base), ("head", self.settings.head)]
        return [
            *own,
            ("schedule", self.schedule),
            ("localization", self.localization),
            ("training", self.training),
        ]

    def flat(self) -> dict[str, Any]:
        """Every option under its own name; names are unique over the groups."""
        return {each.name: each.value for each in self.options()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: method, variant, data set, and by group the options that have an effect."""
        out: dict[str, Any] = {"method": self.method.name, "variant": self.variant, "dataset": self.dataset}
        out |= {group: {} for group, _ in self.groups()}
        for each in self.options():
            if each.acts:
                out[each.group][each.name] = each.value
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Inverse of `as_dict`; options without an effect are as published for the data set.

        Raises:
          OptionError: a method, data set or option that does not exist, or a value of another type than its option's.
        """
        start = cls.of(str(values.get("method")), dataset=str(values.get("dataset", THUMOS14)))
        own = {
            name: _with_tuples(value)
            for group, options in values.items()
            if isinstance(options, Mapping)
            for name, value in options.items()
        }
        config = replace(start.changed(**own), variant=str(values.get("variant", "official")))
        config.check_types()
        return config

    def changed(self, **values: Any) -> Config:
        """A copy with single options replaced, named without their group.

        Raises:
          OptionError: an option that this method does not have; the message lists those it has.
        """
        known = {each.name for each in self.options()}
        if unknown := sorted(values.keys() - known):
            raise OptionError(self.refusal(unknown))
        parts = {
            name: _replaced(getattr(self, name), values)
            for name in ("settings", "schedule", "localization", "training")
        }
        return replace(self, **parts)

    def refusal(self, unknown: list[str]) -> str:
        """What to say of options that there are not."""
        own = ", ".join(each.name for each in self.options() if each.group in ("settings", "head"))
        return (
            f"method {self.method.name} has no option {', '.join(unknown)}; its own are {own}; all methods have those "
            "of schedule, localization and training (--help-all lists them)"
        )

    def check_types(self) -> None:
        """Refuse values of another type than their option's.

        Raises:
          OptionError: naming the option, its value and what it takes.
        """
        for each in self.options():
            if not _fits(each.value, each.hint):
                one_of = f"one of {get_args(each.hint)}" if get_origin(each.hint) is Literal else _name(each.hint)
                raise OptionError(f"{each.name} must be {one_of}, got {brief(repr(each.value))}")

    def check(self) -> None:
        """Refuse values that no run can use, and options that do not go together.

        Raises:
          OptionError: naming the option, its value and what is allowed.
        """
        self.check_types()
        for each in self.options():
            values = each.value if isinstance(each.value, tuple) else (each.value,)
            within = each.meta("within")
            if each.value is not None and within and not all(_lies(value, within) for value in values):
                raise OptionError(f"{each.name} must lie in {within}, got {each.value}")
        if not self.localization.thresholds:
            raise OptionError("thresholds must name at least one threshold, got none")
        if self.localization.smooth_width % 2 == 0:
            width = self.localization.smooth_width
            raise OptionError(f"smooth_width must be odd, got {width}; {width - 1} and {width + 1} are")
        schedule, training, method = self.schedule, self.training, self.method
        if 2 * schedule.similar_pairs > schedule.batch_size:
            raise OptionError(
                f"similar_pairs must fit a batch of {schedule.batch_size} videos, got {schedule.similar_pairs}"
            )
        if schedule.similar_pairs and training.data_parts > 1:
            raise OptionError(
                f"similar_pairs {schedule.similar_pairs} draws from all training videos; leave out --data-parts "
                f"{training.data_parts}, or pass 0 pairs"
            )
        if training.model_devices > 1 and not method.split:
            raise OptionError(
                f"model_devices {training.model_devices}: the network of {method.name} cannot be split; leave it out"
            )
        flat = self.flat()
        if flat.get("test_cluster_labels") == "train" and not method.per_snippet:
            raise OptionError(
                f"test_cluster_labels train: the network of {method.name} sees more than one snippet; leave it out"
            )
        if flat.get("cluster_context", 1) % 2 == 0:
            raise OptionError(f"cluster_context must be odd, as many before as after, got {flat['cluster_context']}")
        if self.localization.proposals == "regressed" and not method.learns_instances:
            raise OptionError(
                f"proposals regressed: {method.name} regresses no segments; leave it out, or use --method student"
            )
        if flat.get("width", 1) % 2 == 0 and method.learns_instances:
            raise OptionError(f"width must be odd, as many snippets before as after, got {flat['width']}")
        if method.learns_instances and not flat["doubt"] <= flat["keep"]:
            raise OptionError(f"doubt must not be above keep {flat['keep']}, got {flat['doubt']}")
        if flat.get("pseudo_labels") and self.localization.test_sampling != "whole":
            raise OptionError(
                f"pseudo_labels needs an inference on whole videos, got test_sampling {self.localization.test_sampling}"
            )

    def check_data(self, dataset: Dataset) -> None:
        """Refuse data that the options cannot be used with.

        Raises:
          OptionError: an option that this data set does not go with.
          DataError: too few videos.
        """
        self.method.check(self.settings, dataset)
        labels = dataset.train.multi_hot(dataset.classes)
        if self.schedule.similar_pairs and not (labels.sum(axis=0) >= 2).any():
            raise DataError(
                f"{dataset.source}: no class has two training videos for --similar-pairs "
                f"{self.schedule.similar_pairs}; pass 0"
            )
        num_videos, batch_size, parts = len(labels), self.schedule.batch_size, self.training.data_parts
        if num_videos // parts < batch_size // parts:
            raise DataError(
                f"{dataset.source}: {num_videos} training videos do not fill one batch of {batch_size}; "
                f"use --batch-size {num_videos} or less, or more videos"
            )
        if (dataset.train.features.lengths > 0).all():
            return
        # This process has read a part of the features.
        flat = self.flat()
        needs_all = (("select", "train-holdout"), ("test_cluster_labels", "train"), ("pseudo_labels", True))
        for name, needs in (*needs_all, ("supervision", "weak"), ("supervision", "points")):
            if flat.get(name) == needs:
                raise OptionError(
                    f"--{name.replace('_', '-')} {needs} needs all training features in one process; leave out "
                    "--data-parts, so that each process reads them all"
                )

    def describe(self) -> str:
        """The method, its variant and another data set than THUMOS14 by name, with the options set apart from them.

        Options of method and inference, and of the schedule those that do not say how fast or long it trains.
        """
        start = Config.of(self.method.name, self.variant, self.dataset).flat()
        changes = [
            f"{each.name}={each.value:.4g}" if isinstance(each.value, float) else f"{each.name}={each.value}"
            for each in self.options()
            if each.group != "training" and each.name not in _SPEED and each.value != start[each.name] and each.acts
        ]
        names = [self.method.name, *([self.variant] if self.method.variants else [])]
        name = ", ".join(names if self.dataset == THUMOS14 else [*names, self.dataset])
        return name + (f" with {', '.join(changes)}" if changes else "")

    @property
    def may_be_compact(self) -> bool:
        """Whether snippets that short videos repeat can be computed once."""
        return self.method.per_snippet and self.schedule.sampling != "crop"

    @property
    def numeric(self) -> tuple[str, ...]:
        """The options that a compiled step takes as values; runs that differ in others need a compilation each."""
        return tuple(each.name for each in self.options() if each.hint == Number)


_SPEED = ("batch_size", "epochs", "learning_rate", "weight_decay", "second_moment", "encoder_dtype", "hidden")


def _replaced(group: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of options, or of such dataclasses, with those of its fields that are named replaced."""
    own: dict[str, Any] = {}
    for each in fields(group):
        value = getattr(group, each.name)
        if is_dataclass(value):
            own[each.name] = _replaced(value, values)
        elif each.name in values:
            own[each.name] = values[each.name]
    return replace(group, **own)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of an option; whole numbers are numbers, and no bool is one."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        kinds = (inner[0],) * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is not None:
        return any(_fits(value, each) for each in inner)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint in (int, float) and isinstance(value, Integral):
        return abs(int(value)) < 2**63
    return isinstance(value, Real if hint is float else hint)


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}.get(hint, str(hint))


def _lies(value: Any, within: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"."""
    low, high = (float(end) for end in within[1:-1].split(","))
    if not math.isfinite(value):
        return False
    return (value >= low if within[0] == "[" else value > low) and (
        value <= high if within[-1] == "]" else value < high
    )


def _with_tuples(value: Any) -> Any:
    """A value as JSON gave it, lists as the tuples they were."""
    return tuple(_with_tuples(part) for part in value) if isinstance(value, list) else value
