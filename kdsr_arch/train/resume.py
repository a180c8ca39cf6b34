"""The state that a training resumes from, and what its options make of it: compared by what they make, not as text."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor, nn

from kdsr_arch.distill.teachers import digests, files_named, weights_files
from kdsr_arch.errors import UserError
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.log import get_logger
from kdsr_arch.options.components import registered
from kdsr_arch.options.schema import Options
from kdsr_arch.options.section import sections_at
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import keywords_of
from kdsr_arch.train.checkpoint import STATES, load_state, numbered

# values that a state cannot outlive: other steps, or an optimizer that remembers other things
_DECISIVE = r"model_type|scale|train\.optim_\w+\.(type|amsgrad|centered)"
# values that the learning rate of an iteration comes from
_RATES = r"train\.(scheduler|warmup_iter|optim_\w+\.lr|lr_flow|\w+_lr_mul).*"
_PATH = r"(?:.*\.)?(?:dataroot_\w+|meta_info_\w+|teacher_cache|(?:\w+_)?path)(?:\.\d+)?"
_KINDS = {
    r"network_\w+": "network",
    r"datasets\.(train|val\w*)(\.datasets\.\d+)?": "data set",
    r"val\.metrics\.\w+": "metric",
    r"train\.optim_\w+": "optimizer",
    r"train\.scheduler": "scheduler",
    r"train\.(\w+_opt|distill_opt\.\w+)": "loss",
}
HOW_LOADED = ("num_worker_per_gpu", "verify", "cache", "cache_gb", "resident")
"""Options of data sets that change no sample."""
HOW_SHOWN = ("val_freq", "save_img", "pbar", "suffix", "score_teacher")
"""Options of `val` that change no score."""
# options of validations, and those of them that change no score
_SCORING = r"(datasets\.)?val(?![^\W_])"
_UNSCORED = {"name", "speed_size", "batch_size_per_gpu", "io_backend", *HOW_LOADED, *HOW_SHOWN}


# ---------------------------------------------------------------------------------------------- what options make


def fingerprint(
    opt: Options,
    teacher: nn.Module | None = None,
    samples: int = 0,
    weights: Mapping[str, str] | None = None,
    start: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return what a state says of its training, each entry as JSON text.

    Args:
        teacher: the live one.
        samples: of the training data.
        weights: what `weights_digests` makes of the teachers' files.
        start: what `start_digests` makes of those that the training starts from.
    """
    assert opt.train is not None
    values: dict[str, Any] = {"name": opt.name, "model_type": opt.model_type, "scale": opt.scale}
    values |= {key: network.plain() for key, network in opt.networks.items()}
    values |= {"optim_g.type": opt.train.optim_g.type, "terms": sorted(opt.train.distill_opt)}
    values |= {"~manual_seed": opt.manual_seed, "~train": opt.train.plain()}
    values |= {"~teacher": opt.teacher.plain(), "~deterministic": opt.deterministic}
    values |= {"~datasets.train": opt.datasets["train"].plain()}
    values |= {f"~{key}": section for key, section in _scoring(opt).items()}
    values |= {"teacher": _described(teacher)} if teacher is not None else {}
    values |= {"weights": weights} if weights else {}
    values |= {"start": start} if start else {}
    values |= {"samples": samples} if samples else {}
    values |= {"imports": {file.name: file.digest for file in opt.imported}} if opt.imported else {}
    return {k: json.dumps(v, sort_keys=True, default=str) for k, v in values.items()}


def start_digests(opt: Options) -> dict[str, str]:
    """Return the SHA-256 of each file of weights that a trained network starts from, by the network's key."""
    return digests(_start_files(opt))


def _start_files(opt: Options) -> dict[str, Path]:
    trained = {key: network.plain() for key, network in opt.networks.items() if key not in opt.teachers}
    return files_named(opt.path.plain(), trained)


def with_start_of(theirs: Mapping[str, str], mine: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprint of a run that goes on: it started from what the state's run started from."""
    return {k: v for k, v in mine.items() if k != "start"} | {k: v for k, v in theirs.items() if k == "start"}


def _scoring(opt: Options) -> dict[str, dict[str, Any]]:
    """Return what the score of a validation depends on: `val`, and each `datasets.val*`."""
    sections = {"val": opt.val, **{f"datasets.{key}": section for key, section in opt.phase("val").items()}}
    plain = {key: section.plain() if section and opt.val else {} for key, section in sections.items()}
    return {key: {k: v for k, v in values.items() if k not in _UNSCORED} for key, values in plain.items()}


def _described(net: nn.Module) -> str:
    """Name a network by its class, size, and the names and shapes of its tensors."""
    shapes = [(name, tuple(value.shape)) for name, value in net.state_dict().items() if isinstance(value, Tensor)]
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]
    return f"{type(net).__name__} with {count_parameters(net):,} parameters (names and shapes {digest})"


@dataclass(frozen=True)
class Change:
    """An option that has another value than when the state was saved; None where it is absent."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        """Write it as `key: before -> now`."""
        texts = ("absent" if value is None else json.dumps(value) for value in (self.before, self.now))
        return f"{self.key}: {' -> '.join(text if len(text) <= 60 else f'{text[:57]}...' for text in texts)}"


def changes(theirs: Mapping[str, str], mine: Mapping[str, str]) -> list[Change]:
    """List the options in which two fingerprints differ; those that earlier versions told nothing of where both do.

    See :func:`differences`.
    """
    if "~val" not in theirs:  # of an earlier version
        mine = {key: text for key, text in mine.items() if not re.match(_SCORING, key.lstrip("~"))}
    mine = {key: text for key, text in mine.items() if key in theirs or key not in ("~teacher", "~deterministic")}
    return differences(_document(theirs), _document(mine))


def other_weights(opt: Options, theirs: Mapping[str, str], mine: Mapping[str, str]) -> str:
    """Name the teachers whose weights differ in two fingerprints, with their files: 'network_t (FILE)'; '' for none.

    Weights that one of the two does not tell of, being of an earlier version, are no difference.
    """
    return _others(weights_files(opt), _digests(theirs), _digests(mine))


def other_start(opt: Options, theirs: Mapping[str, str], mine: Mapping[str, str]) -> str:
    """Name the trained networks that start from other weights in two fingerprints, as `other_weights` does."""
    return _others(_start_files(opt), _digests(theirs, "start"), _digests(mine, "start"))


def _others(files: Mapping[str, Path], before: Mapping[str, str], now: Mapping[str, str]) -> str:
    return ", ".join(f"{key} ({files[key]})" for key in files if before.get(key, now.get(key)) != now.get(key))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """List what differs in two option files' contents.

    A key that is absent on one side is no change where the other has the default; nor is a path to what was moved.
    """
    return [*_changes(before, now, [])]


# the last two are in `train` as well
_NO_OPTIONS = ("name", "teacher", "weights", "start", "samples", "terms", "optim_g.type")


def _document(prints: Mapping[str, str]) -> dict[str, Any]:
    """Read a fingerprint's options; what cannot be read is left out."""
    document: dict[str, Any] = {"imports": {}}
    for key, text in prints.items():
        if key not in _NO_OPTIONS:
            try:
                document[key.lstrip("~")] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return document


def _changes(before: Any, now: Any, keys: list[str]) -> Iterator[Change]:
    key = ".".join(keys)
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in [*before, *(name for name in now if name not in before)]:
            one, other = before.get(name), now.get(name)
            absent = one is None or other is None
            if not absent or (one if other is None else other) not in _defaults([*keys, name], now):
                yield from _changes(one, other, [*keys, name])
    elif before and _are_mappings(before) and _are_mappings(now) and len(before) == len(now):
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from _changes(*pair, [*keys, str(number)])
    elif before != now and not (re.fullmatch(_PATH, key) and _same_place(str(before), str(now))):
        yield Change(key, before, now)


def _same_place(before: str, now: str) -> bool:
    """Tell whether two paths lead to the same data, moved or copied: they end alike, and not in folders of other names.

    Folders end alike where each data set has its own: Set5/HR and Set14/HR.
    """
    try:
        held = [sorted(os.listdir(path)) for path in (before, now)]
    except (OSError, ValueError):  # one is no folder, or is gone, as where a project has moved
        held = []
    return PurePath(before).name == PurePath(now).name and held[:1] == held[1:]


def _digests(prints: Mapping[str, str], entry: str = "weights") -> Mapping[str, str]:
    try:
        found = json.loads(prints.get(entry, "{}"))
    except (ValueError, RecursionError):  # a damaged state
        return {}
    return found if isinstance(found, Mapping) else {}


def _are_mappings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, Mapping) for value in values)


def _defaults(keys: list[str], section: Mapping[str, Any]) -> list[Any]:
    """Return the values that mean the same as an absent key: the schema's default, and that of the class it is for."""
    *parents, name = keys
    fields = [s.model_fields[name] for s in sections_at(keys, Options) if name in s.model_fields]
    defaults = [field.get_default(call_default_factory=True) for field in fields if not field.is_required()]
    kind = next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, ".".join(parents))), None)
    thing = registered(kind, section.get("type")) if kind else None
    if thing is not None:
        parameter = keywords_of(thing).parameters.get(name)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            defaults.append(parameter.default)
    return [None, *(list(value) if isinstance(value, tuple) else value for value in defaults)]


# -------------------------------------------------------------------------------------------------- finding the state


@dataclass(frozen=True)
class Saved:
    """A state to resume from.

    Attributes:
        content: see `load_state`.
        path: its file.
        schedule_anew: its iteration, where options that the learning rate comes from have changed; else 0.
        rescored: the keys of changed options that scores depend on.
    """

    content: dict[str, Any]
    path: Path
    schedule_anew: int = 0
    rescored: tuple[str, ...] = ()


def find_state(opt: Options, model: Any, auto_resume: bool, mine: Mapping[str, str]) -> Saved | None:
    """Read the state to resume from; say which options have changed.

    With `auto_resume` that is the newest whole one of this experiment, where there is one; else `path.resume_state`;
    None to start anew.

    Args:
        model: what is trained, built: it says in what a state does not fit (`misfits`).
        mine: the fingerprint of this training.

    Raises:
        UserError: the state is of something else than the options make, none is whole, or `path.resume_state` is
            unusable.
    """
    assert opt.train is not None
    folder, path, content = opt.folder / "training_states", None, None
    if auto_resume:
        path, content, passed = find_latest(folder)
        anew = f"to start anew, leave --auto_resume out (the run so far is then renamed) or remove {opt.folder}"
        if passed and content is None:
            raise UserError(f"{folder}: none of its states can be used ({passed[0]}); {anew}")
        for reason in passed:
            get_logger().warning(f"passed over: {reason}")
    if content is None and opt.path.resume_state:
        path, anew = Path(opt.path.resume_state).expanduser(), "to start anew, take path.resume_state out"
        content = load_state(path)
    if content is None or path is None:
        if auto_resume:
            _tell_none(opt, folder)
        return None
    theirs = content["fingerprint"]
    changed = changes(theirs, mine)
    if conflicts := _conflicts(model, content["model"], theirs, mine, changed):
        raise UserError(
            f"{path}: the state of another training ({'; '.join(conflicts)}); put the options back, or {anew}; to "
            "start from its weights only, use path.pretrain_network_g"
        )
    if content["iter"] > opt.train.total_iter:
        raise UserError(f"{path}: is past train.total_iter {opt.train.total_iter:,}")
    get_logger().info(f"Resuming from iteration {content['iter']:,}: {path}")
    new_rates = any(re.fullmatch(_RATES, change.key) for change in changed)
    _tell(changed, new_rates)
    if others := other_weights(opt, theirs, mine):
        get_logger().warning(f"The teacher's weights changed since the state was saved, and teach from here: {others}")
    _compare_samples(theirs, len(content["random"]), mine)
    rescored = tuple(change.key for change in changed if re.match(_SCORING, change.key))
    return Saved(content, path, content["iter"] if new_rates else 0, rescored)


def _tell_none(opt: Options, folder: Path) -> None:
    """Say that a resume begins a new run, and where the state may be that was meant: beside the option file."""
    get_logger().info(f"no state in {folder}: starting at iteration 1")
    place, own = opt.source.parent.resolve(), opt.folder.resolve()
    beside = "/" in opt.name and place.parent == own.parent  # another part of the same sequence
    if place != own and not beside and numbered(place / "training_states", STATES):
        get_logger().warning(
            f"The option file lies in an experiment, {place}, whose states are not resumed: by its name this one goes "
            f"to {own}. To go on there, set name: {place.name}"
        )


def find_latest(folder: Path) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """Read the newest whole state in `folder`.

    Returns:
        Its path and content, or two None; and why newer ones were passed over.
    """
    passed: list[str] = []
    for _, path in reversed(numbered(folder, STATES)):
        try:
            return path, load_state(path), passed
        except UserError as error:
            passed.append(str(error))
    return None, None, passed


def _conflicts(
    model: Any, state: Mapping[str, Any], theirs: Mapping[str, str], mine: Mapping[str, str], changed: list[Change]
) -> list[str]:
    """Say in what a state is none of this training's; empty where it can be resumed."""
    found = [str(change) for change in changed if re.fullmatch(_DECISIVE, change.key)]
    if any(change.key == "model_type" for change in changed):
        return found
    for key, sentence in model.misfits(state):
        found += [str(change) for change in changed if change.key.startswith(key)]
        found.append(f"{key}: {sentence}")
    before, now = theirs.get("teacher"), mine.get("teacher")
    if before and now and before != now:
        found.append(f"the teacher: {before} there, {now} here")
    return list(dict.fromkeys(found))


def _tell(changed: list[Change], new_rates: bool) -> None:
    files = [change.key.removeprefix("imports.") for change in changed if change.key.startswith("imports.")]
    if files:
        get_logger().warning(
            f"Imported files changed since the state was saved, and take effect from here: {', '.join(files)}"
        )
    changed = [change for change in changed if not change.key.startswith("imports.")]
    if changed:
        rates = "; the learning rate goes on as if its options had always been these" if new_rates else ""
        get_logger().warning(
            "These options changed since the state was saved, and take effect from here: "
            f"{', '.join(map(str, changed))}{rates}"
        )


def _compare_samples(theirs: Mapping[str, str], processes: int, mine: Mapping[str, str]) -> None:
    before, now = _samples(theirs, processes), _samples(mine, distributed.world_size())
    if before not in (0, now):
        get_logger().warning(
            f"An iteration took {before} samples when the state was saved and takes {now} now, so training does not go "
            "on with the samples that came next: keep processes x batch_size_per_gpu x accumulation as it was"
        )
    there, here = theirs.get("samples"), mine.get("samples")
    if there and here and there != here:
        get_logger().warning(
            f"The training data had {there} samples when the state was saved and have {here} now, so training does not "
            "go on with the samples that came next: were files added or lost?"
        )


def _samples(theirs: Mapping[str, str], processes: int) -> int:
    """Return the samples of one iteration of the experiment with that fingerprint; 0 where it does not say."""
    try:
        dataset, train = (json.loads(theirs[key]) or {} for key in ("~datasets.train", "~train"))
        each = int(dataset.get("batch_size_per_gpu") or 1) * int(train.get("accumulation") or 1)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0
    return each * processes


def alike_everywhere(opt: Options, position: int) -> None:
    """Check that all processes train the same from the same iteration on.

    Raises:
        UserError: they read different option files, or do not see the same experiment folder.
    """
    mine = {k.lstrip("~"): v for k, v in fingerprint(opt).items() if not k.startswith("~datasets.")}  # folders differ
    mine["batch_size_per_gpu"] = str(opt.datasets["train"].batch_size_per_gpu)
    starts = distributed.gather((position, mine))
    if len({where for where, _ in starts}) > 1:
        raise UserError(
            f"the processes would go on from different iterations ({', '.join(f'{where:,}' for where, _ in starts)}): "
            "the folder of experiments must be on a file system that all machines share"
        )
    for _, theirs in starts:
        for key in [key for key in {**theirs, **mine} if theirs.get(key) != starts[0][1].get(key)]:
            raise UserError(f"the processes read different option files ({key} differs): give all machines the same")
