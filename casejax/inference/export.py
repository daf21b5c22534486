"""A trained network for others: a folder with safetensors, a model card, and a program that runs without casejax."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export

from casejax.errors import CheckpointError, OptionError
from casejax.records import SnippetScores
from casejax.run.exported import SETTINGS, WEIGHTS, write_network
from casejax.run.folder import Restored, restore_run
from casejax.runtime import files
from casejax.runtime.reading import read_json

PROGRAM, CARD = "model.jax", "README.md"
"""The exported program, and the model card, of a folder."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""That the program runs on."""


def export_run(folder: Path, out: Path) -> None:
    """Export a trained network; `Localizer.load(out)` reads it back.

    Args:
      folder: of a run, or of a converted network.
      out: folder to write, whole or not at all.

    Raises:
      CheckpointError: no network in the folder, or one that cannot be exported.
      DataError: `out` exists.
      OptionError: safetensors is missing, or Q^C depends on the training videos.

    Example:
      >>> from pathlib import Path
      >>> import casejax
      >>> from casejax import inference
      >>> inference.export_run(Path("run"), Path("exported"))
      >>> casejax.Localizer.load("exported").classes
      ('CliffDive', 'Dive')
    """
    restored = restore_run(folder)
    if restored.config.flat().get("test_cluster_labels") == "train":
        raise OptionError("test_cluster_labels train needs the training videos; train with --test-cluster-labels last")
    program, num_snippets = export_program(restored)
    with files.whole_folder(out) as partial:
        write_network(restored, partial)
        files.write_bytes(partial / PROGRAM, program)
        files.write_text(partial / CARD, model_card(restored, _results(folder), num_snippets))


def export_program(restored: Restored) -> tuple[bytes, int | None]:
    """The network and its inference as one program of (mask (B, T), one (B, T, D_s) a stream).

    Returns:
      The program, for any B, and the T that it is for: None for any; that of training where the method's shapes must
      be known in advance.

    Raises:
      CheckpointError: the method needs to know the number of videos in advance.
      OptionError: flatbuffers is missing; the message says how to install it.
    """
    graphdef, state, config = restored.graphdef, restored.state, restored.config

    def scores(mask: jax.Array, *features: jax.Array) -> dict[str, jax.Array]:
        outputs = nnx.merge(graphdef, state.params)(features, mask=mask)
        found = config.method.score(outputs, state.cluster_labels, settings=config.settings, mask=mask)
        return _plain(found)

    if find_spec("flatbuffers") is None:
        raise OptionError("an export needs flatbuffers: pip install 'casejax[export]'")

    def program(batch: Any, time: Any) -> bytes:
        streams = [jax.ShapeDtypeStruct((batch, time, dim), jnp.float32) for dim in restored.meta["data"]["dims"]]
        mask = jax.ShapeDtypeStruct((batch, time), jnp.bool_)
        with _without_places():
            return bytes(export.export(jax.jit(scores), platforms=PLATFORMS)(mask, *streams).serialize())

    batch, time = export.symbolic_shape("b, t")
    length = config.localization.test_num_snippets or config.schedule.num_snippets
    for tried, only in ((time, None), (length, length)):
        try:
            return program(batch, tried), only
        except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
    raise CheckpointError(
        f"{restored.folder}: method {config.method.name} cannot be exported for any number of videos ({reason})"
    )


@contextmanager
def _without_places() -> Iterator[None]:
    """Programs that name no files of this machine: others get them, and the same network gives the same bytes."""
    name = "jax_traceback_in_locations_limit"
    kept = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, kept)


def model_card(restored: Restored, results: dict[str, Any], num_snippets: int | None = None) -> str:
    """What somebody needs to know who gets the folder: settings, features, classes, result with its protocol, use.

    Args:
      restored: the network.
      results: of the run.
      num_snippets: the only T of the program; None for any.
    """
    data, config = restored.meta["data"], restored.config
    inputs = ", ".join(f"{name} ({dim})" for name, dim in zip(data["streams"], data["dims"], strict=True))
    made = ", ".join(f"{name} {value}" for name, value in data.get("provenance", {}).items()) or "not stated"
    whole = config.localization.test_sampling == "whole"
    length = config.localization.test_num_snippets or config.schedule.num_snippets
    sampled = "all rows of a video" if whole else f"{length} rows spread evenly over a video (row i N // {length})"
    trained = f"{data['train_videos']} videos, {data['train_snippets']} snippets, {int(restored.state.step)} steps, "
    trained += f"seed {config.training.seed}"
    lengths = "any number and length of videos"
    if num_snippets is not None:
        lengths = f"any number of videos, {num_snippets} snippets each, shorter ones filled up under the mask"
    arrays = ", ".join(f"b{i}" for i in range(len(data["dims"])))
    return f"""---
library_name: casejax
tags: [temporal-action-localization, weakly-supervised, jax]
---

# {config.describe()}

Finds when actions of {len(data["classes"])} classes happen in a video, from snippet features.

| | |
| --- | --- |
| classes | {", ".join(data["classes"])} |
| features | {inputs}; {restored.timing.describe()} |
| made by | {made} |
| trained on | video labels: {trained} |
| options | all in `{SETTINGS}` |

## Result

{_result(results)}

## Use

```python
import casejax
localizer = casejax.Localizer.load("FOLDER")   # pip install 'casejax[export]'
localizer(features).segments                   # (rows, dims) of one video: label, start, end, score
```

With JAX and flatbuffers alone, `{PROGRAM}` gives scores of {lengths}, on {", ".join(PLATFORMS)};
inputs are a mask (B, T), True for real snippets, and an array (B, T, D) a stream, of {sampled}:

```python
import jax.export
program = jax.export.deserialize(open("{PROGRAM}", "rb").read())
scores = program.call(mask, {arrays})   # {", ".join(SnippetScores._fields)}: those that the method has
```

`{WEIGHTS}` holds the parameters. No file is a pickle.
"""


def _plain(found: Any) -> Any:
    """Records as dictionaries, which an exported program can return, without what a method does not have."""
    if not hasattr(found, "_asdict"):
        return found
    return {name: _plain(value) for name, value in found._asdict().items() if value is not None}


def _result(results: dict[str, Any]) -> str:
    trained = results.get("trained", {})
    if "mAP" not in trained:
        return "Not evaluated on videos with annotated times."
    figures = trained["mAP"] | trained["average_mAP"]
    shown = {name: "-" if value is None else f"{100 * value:.1f}" for name, value in figures.items()}
    rows = [" | ".join(shown), " | ".join("---" for _ in shown), " | ".join(shown.values())]
    table = "\n".join(f"| {row} |" for row in rows)
    return f"mAP, %, by tIoU.\n\n{table}\n\n{results['protocol']}"


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    if not path.is_file():
        return {}
    found: dict[str, Any] = read_json(path, dict, remedy="evaluate again (casejax eval)")
    return found
