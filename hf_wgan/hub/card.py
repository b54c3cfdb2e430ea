"""Cards: a model's, generated from a run's own files, and any, around what a person wrote into it by hand.

The generated text stands between two marks. The first mark holds digests of the text that it opens, of what stands
outside the marks, of the metadata, and of each piece of the metadata that was generated, so that every copy of a card
shows what was written by hand, and whether the metadata changed since.
"""

import hashlib
import json
import re
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..utils import files
from ..utils.commands import shell_command
from ..utils.console import say
from ..utils.errors import InputError, one_line
from ..utils.secrets import public, public_command
from .code import usage_of

TASK = "unconditional-image-generation"
ALWAYS_GENERATED = (  # metadata of a model's card, and of a Space's
    *("library_name", "pipeline_tag", "base_model", "model-index"),
    *("sdk", "sdk_version", "python_version", "app_file"),
)
NOT_SETTINGS = re.compile(
    "output_dir|overwrite_output_dir|resume_from_checkpoint|allow_config_change|on_nan|max_restores|push_to_hub|hub_.*|license"
)

SMALL_CHANGE = 0.1  # of the estimate, of which a card says nothing
MAX_METADATA_CHARACTERS = 2**18
MAX_METADATA_VALUES = 10_000
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "|": "&#124;"}

MARK = "<!-- made by hf_wgan ({}); write above or below, and it stays when the card is made again -->"
END = "<!-- end of what hf_wgan made -->"
_MARKS = re.compile(MARK.format("@").replace("(@)", r"\((\w+) (\w+) (\w+)\)") + "\n(.*)\n" + END, re.DOTALL)
_DIFFUSERS_CARD = "<!-- This model card has been generated automatically"
_SPACE_CARD = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
_BESIDE = Path(__file__).with_name("model_card_template.md")  # where the wheel has it
_IN_CHECKOUT = Path(__file__).parents[2] / "model_cards" / "template.md"


def write_card(folder: Path) -> None:
    """Write or update the `README.md` of a pipeline's folder.

    Raises:
        InputError: The card that is there, or a file of the run, cannot be read.
    """
    existing = files.read_text(folder / files.CARD, folder)
    files.write_text(folder / files.CARD, merge(make_card(folder, folder.resolve().name), existing))


def clear_card(folder: Path) -> None:
    """Remove the generated parts of a folder's card; what a person wrote into it stays.

    Raises:
        InputError: The card cannot be read.
    """
    card = _parse(files.read_text(folder / files.CARD, folder))
    if card.whole_is_by_hand:
        return
    if any(card.by_hand) or card.data_by_hand:
        files.write_text(folder / files.CARD, assemble(card.data_by_hand, card.by_hand[0], "", card.by_hand[1], {}))
    else:
        (folder / files.CARD).unlink(missing_ok=True)


def is_generated(folder: Path) -> bool:
    """Return whether a folder's card is as it was generated, or missing; not if it cannot be read."""
    try:
        card = _parse(files.read_text(folder / files.CARD, folder))
    except (OSError, ValueError):
        return False
    return not (card.whole_is_by_hand or any(card.by_hand) or card.data_by_hand or card.data_changed)


def record_evaluation(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write metrics into a run's `evaluation.json` and its card.

    They replace older ones of the same type by the same feature extractor and for the same dataset.

    Args:
        folder: The run's folder.
        rows: `metric_type`, `metric_name` and `metric_value` of each metric, and its `settings`, among them `dataset`
            if it is another than the run's.
    """

    def kind(row: dict[str, Any]) -> tuple[str, str | None, str | None]:
        return row["metric_type"], row["settings"].get("features"), row["settings"].get("dataset")

    new = set(map(kind, rows))
    kept = [row for row in read_evaluation(folder) if kind(row) not in new]
    files.write_text(folder / files.EVALUATION, json.dumps([*kept, *rows], indent=2) + "\n")
    write_card(folder)


def make_card(folder: Path, name: str) -> str:
    """Return the generated card of a folder that holds a pipeline and, after training, the run's record.

    Credentials and local paths are left out, and what would be Markdown or HTML in the names of datasets, classes and
    files is escaped.

    Args:
        folder: The folder.
        name: What the usage examples load: the folder's name, or that of the repository.

    Raises:
        InputError: A file of the run cannot be read.
    """
    index = _read(folder, files.INDEX)
    run = _record(folder)
    networks = {part: _network(folder, part, index[part][1]) for part in files.NETWORKS if index.get(part)}
    last = _last_line(files.read_text(folder / files.METRICS, folder))
    dataset = {**run["dataset"], "label": _label(run["dataset"])} if run else None
    if dataset and isinstance(dataset.get("config"), dict):
        dataset["config"] = _acting(dataset["config"], run)
    evaluations = read_evaluation(folder)
    settings = ({"preset": run["preset"]} if run.get("preset") else {}) | _acting(run.get("training", {}), run)
    for component in ("constraint", "augmentation"):  # objects that were given instead of the options
        if component in run:
            settings[component] = ", ".join(f"{key} {value}" for key, value in run[component].items())
    data = ModelCardData(
        license=run.get("training", {}).get("license", "unknown"),
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=["hf_wgan", "wgan", "gan", "wasserstein", TASK],
        datasets=[dataset["hub_id"]] if dataset and _is_repository(dataset.get("hub_id")) else None,
        base_model=run.get("base_model") if _is_repository(run.get("base_model")) else None,
        model_name=_shown(name.rpartition("/")[2]),
        eval_results=_results(_shown(dataset), last, _shown(evaluations)) if dataset else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_BESIDE if _BESIDE.is_file() else _IN_CHECKOUT),
        name=json.dumps(name, ensure_ascii=False),
        title=_shown(name.rpartition("/")[2]),
        usage=usage_of(index),
        networks=_shown(networks),
        generator=_shown(networks["generator"]),
        size=_size(networks["generator"].get("sample_size")),
        dataset=_shown(dataset),
        last=last,
        course=_course(files.read_text(folder / files.METRICS, folder)),
        comparable=_shown(_comparable(evaluations)),
        sample_grid=next((f"{files.SAMPLES}/{path.name}" for path in files.sample_grids(folder)[-1:]), None),
        curves=files.CURVES if (folder / files.CURVES).is_file() else None,
        command=public_command(run["command"]) if isinstance(run.get("command"), str) else None,
        machine=_shown(run.get("machine")),
        versions=_shown(run.get("versions", {})),
        base_model=_shown(run.get("base_model")),
        settings=_shown({key: value for key, value in settings.items() if not NOT_SETTINGS.fullmatch(key)}),
    )
    return assemble(card.data.to_dict(), "", card.text.strip(), "")


def merge(generated: str, local: str, published: str = "") -> str:
    """Return a generated card with what was written by hand into the copies of an earlier one.

    Text outside the marks stays. If both copies have such text, the copy that was changed since the last push
    counts, or both if both were changed. If the text between the marks was changed, or the marks were removed, the
    whole text of that copy stays. Metadata that a person added or changed stays, except what describes the run.

    Args:
        generated: What `make_card` returned.
        local: The card in the folder; empty if there is none.
        published: The card in the repository; empty if there is none.

    Raises:
        InputError: The metadata of a copy is too large.
    """
    new, mine, theirs = _parse(generated), _parse(local), _parse(published)
    latest_first = sorted((mine, theirs), key=lambda card: not card.data_changed)
    data = _merge_data(new.data, *(card.data_by_hand for card in latest_first))
    for card in (mine, theirs):
        if card.whole_is_by_hand:
            return f"---\n{_yaml(data)}---\n{card.text}"
    if mine.by_hand == theirs.by_hand or _digest(mine.by_hand) == mine.base:
        before, after = theirs.by_hand if published else mine.by_hand
    elif _digest(theirs.by_hand) == mine.base:
        before, after = mine.by_hand
    else:
        before, after = (_both(*texts) for texts in zip(theirs.by_hand, mine.by_hand))
    return assemble(data, before, new.generated, after, new.data)


@dataclass(frozen=True)
class _Card:
    data: dict[str, Any]
    text: str  # all but the metadata
    generated: str  # between the marks
    by_hand: tuple[str, str]  # above and below them
    base: str  # digest of by_hand when the card was written
    data_by_hand: dict[str, Any]  # the metadata that was not generated
    data_changed: bool  # since the card was written
    whole_is_by_hand: bool


def _parse(content: str) -> _Card:
    header = re.match(r"\A---\r?\n(.*?\n)---\r?\n?", content, re.DOTALL)
    data = _load_yaml(header[1]) if header else {}
    text = content[header.end() :] if header else content
    if (marks := _MARKS.search(text)) is None:
        is_nobodys = text.strip() in ("", _SPACE_CARD) or _DIFFUSERS_CARD in text
        return _Card(data, text, "", ("", ""), _digest(("", "")), data, bool(data), not is_nobodys)
    digest, base, data_digests, generated = marks.groups()
    by_hand = text[: marks.start()].strip(), text[marks.end() :].strip()
    data_digest, pieces = data_digests[:12], set(re.findall(".{6}", data_digests[12:]))
    data_changed = _digest(data) != data_digest
    data_by_hand = {key: value for key, value in data.items() if _piece(key, value) not in pieces}
    return _Card(data, text, generated, by_hand, base, data_by_hand, data_changed, _digest(generated) != digest)


def _load_yaml(text: str) -> dict[str, Any]:
    """Return the metadata of a card; empty if it is no valid YAML mapping.

    Raises:
        InputError: It is too large, or becomes so when its aliases are replaced by what they stand for.
    """
    if len(text) > MAX_METADATA_CHARACTERS:
        raise InputError(
            f"a card with {len(text):,} characters of metadata: at most {MAX_METADATA_CHARACTERS:,} are read"
        )
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _num_values(node, {}) > MAX_METADATA_VALUES:
            raise InputError(
                f"a card whose metadata has more than {MAX_METADATA_VALUES:,} values, with what its YAML aliases stand "
                "for: correct its header"
            )
        data = yaml.safe_load(text)
    except RecursionError as error:
        raise InputError("a card whose metadata is nested too deeply: correct its header") from error
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-45
        return {}
    return data if isinstance(data, dict) else {}


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values of a YAML node with its aliases replaced; a node inside itself has no end."""
    if id(node) not in known:
        known[id(node)] = MAX_METADATA_VALUES + 1  # while it is counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        known[id(node)] = 1 + sum(_num_values(part, known) for part in flat)
    return known[id(node)]


def metadata(content: str) -> dict[str, Any]:
    """Return the metadata of a card; empty if there is none that can be read.

    Raises:
        InputError: It is too large.
    """
    return _parse(content).data


def assemble(
    data: dict[str, Any], before: str, generated: str, after: str, data_generated: dict[str, Any] | None = None
) -> str:
    """Return a card.

    Args:
        data: Its metadata.
        before: What was written by hand above the generated text.
        generated: The generated text.
        after: What was written by hand below it.
        data_generated: The part of the metadata that is generated; by default all.
    """
    pieces = "".join(_piece(key, value) for key, value in (data if data_generated is None else data_generated).items())
    mark = MARK.format(f"{_digest(generated)} {_digest((before, after))} {_digest(data)}{pieces}")
    parts = [part for part in (before, f"{mark}\n{generated}\n{END}", after) if part]
    return f"---\n{_yaml(data)}---\n\n" + "\n\n".join(parts) + "\n"


def _merge_data(generated: dict[str, Any], *by_hand: dict[str, Any]) -> dict[str, Any]:
    data = dict(generated)
    for changes in by_hand:
        for key, value in changes.items():
            if key in ALWAYS_GENERATED and key in generated:
                continue
            if isinstance(value, list) and isinstance(data.get(key), list):
                data[key] = [*data[key], *(item for item in value if item not in data[key])]
            elif data.get(key) == generated.get(key):  # the first copy goes first
                data[key] = value
    return data


def _both(first: str, second: str) -> str:
    """Return the first text, and those paragraphs of the second that it does not have."""
    paragraphs = first.split("\n\n")
    return "\n\n".join([*paragraphs, *(part for part in second.split("\n\n") if part not in paragraphs)]).strip()


def _results(dataset: dict[str, Any], last: dict[str, Any] | None, evaluations: list[Any]) -> list[EvalResult] | None:
    about = {
        "task_type": TASK,
        "dataset_type": dataset.get("hub_id") or dataset["label"],
        "dataset_name": dataset["label"],
    }
    results = []
    for row in evaluations:
        other = row["settings"].get("dataset")
        of_others = {"dataset_type": other, "dataset_name": other} if other else {}
        metrics = {key: row[key] for key in row if key.startswith("metric_")}
        results.append(EvalResult(**about | of_others, **metrics))
    if last:
        name = f"Wasserstein estimate of this critic on training images, at step {last['step']}"
        value = round(last["wasserstein_estimate"], 6)
        results.append(EvalResult(**about, metric_type="wasserstein_estimate", metric_name=name, metric_value=value))
    return results or None


def _comparable(evaluations: list[Any]) -> list[tuple[str, list[Any]]]:
    """Group metrics by their settings: only metrics of the same settings may stand in one table."""
    groups: dict[str, list[Any]] = {}
    for row in evaluations:
        settings = {key: value for key, value in row["settings"].items() if key != "real_images_instead"}
        label = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in settings.items())
        groups.setdefault(label, []).append(row)
    return list(groups.items())


def _network(folder: Path, part: str, class_name: str) -> dict[str, Any]:
    config = _read(folder, f"{part}/config.json")
    config.pop("class_frequencies", None)  # a long list, which the samples show better
    arguments = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    return {"class": class_name, **arguments}


def _acting(options: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Return the options that had an effect in a run, by its record; records of earlier versions do not say which."""
    names = run.get("without_effect")
    return {name: value for name, value in options.items() if not isinstance(names, list) or name not in names}


def _label(dataset: dict[str, Any]) -> str:
    """Return what the card calls the dataset: a local one by the last part of its path."""
    return dataset.get("hub_id") or Path(dataset["name"]).name


def _size(sample_size: Any) -> str | None:
    """Return the size of the images as text: `"32×64"`."""
    sides = list(sample_size) if isinstance(sample_size, (list, tuple)) else [sample_size] * 2
    return "×".join(map(str, sides)) if all(isinstance(side, int) for side in sides) else None


def _is_repository(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None


def _shown(value: Any) -> Any:
    """Return a value, and all that it contains, as text of the card shows it."""
    if isinstance(value, Mapping):
        return {_shown(key): _shown(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_shown, value))
    if not isinstance(value, str):
        return value
    text = " ".join(public(" ".join(value.split())).split())
    return "".join(_ESCAPES.get(character, character) for character in text).replace("](", "]&#40;")


def read_evaluation(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics in a run's `evaluation.json`; none, and say so, if it is damaged: it can be made again."""
    path = folder / files.EVALUATION
    try:
        rows = _parsed(files.read_text(path, folder) or "[]")
        entries = {"metric_type", "metric_name", "metric_value"}
        if isinstance(rows, list) and all(row.keys() >= entries and isinstance(row["settings"], dict) for row in rows):
            return rows
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    command = shell_command("evaluate", str(folder))
    say(f"{path} is damaged, and its metrics are left out; to measure them again: {command}")
    return []


def _read(folder: Path, name: str) -> Any:
    """Return the content of a JSON file of a folder; an empty dict if there is none."""
    try:
        return _parsed(files.read_text(folder / name, folder) or "{}")
    except ValueError as error:
        raise InputError(f"{folder / name} is not valid JSON ({one_line(error)}): remove or correct it") from error


def _parsed(text: str) -> Any:
    """Return what a JSON text holds, with question marks for bytes of file names that are no UTF-8, as a card is."""
    return json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace"))


def _record(folder: Path) -> dict[str, Any]:
    """Return the record of a run; an empty dict if there is none."""
    run = _read(folder, files.CONFIG)
    if run != {} and not (isinstance(run, dict) and isinstance(run.get("dataset"), dict) and "name" in run["dataset"]):
        raise InputError(f"{folder / files.CONFIG}: is damaged: it is not what a run records; remove or correct it")
    return run


def _last_line(text: str) -> dict[str, Any] | None:
    """Return the last whole line of `metrics.jsonl`."""
    for line in reversed(text.splitlines()):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


def _course(text: str) -> str:
    """Return whether the estimate in `metrics.jsonl` "fell" or "rose" from the second quarter of a run to its last.

    In the first quarter the critic has still to learn the difference. The answer is "negative" where the last quarter
    is below zero, and an empty string for a few reports and for a small change.
    """
    estimates = []
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a killed process wrote in part
            estimates.append(float(json.loads(line)["wasserstein_estimate"]))
    quarter = len(estimates) // 4
    if quarter < 2:
        return ""
    before, after = (statistics.median(part) for part in (estimates[quarter : 2 * quarter], estimates[-quarter:]))
    if after < 0:
        return "negative"
    if abs(after - before) < SMALL_CHANGE * abs(before) or after == before:
        return ""
    return "fell" if after < before else "rose"


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _piece(key: str, value: Any) -> str:
    return _digest((key, value))[:6]


def _digest(text: Any) -> str:
    return hashlib.sha256(repr(text).encode()).hexdigest()[:12]
