"""Cards: a model's, made from a run's own files, and any around what a person wrote into it by hand.

What is made stands between two marks. The first mark holds digests of what it opens, of what stands outside the marks,
of the metadata, and of each piece of the metadata that was made, so that every copy of a card can tell what was written
by hand, and whether the metadata changed since.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..utils import files
from .code import usage_of

TASK = "unconditional-image-generation"
ALWAYS_MADE = (  # metadata of a model's card, and of a Space's
    *("library_name", "pipeline_tag", "base_model", "model-index"),
    *("sdk", "sdk_version", "python_version", "app_file"),
)
NOT_SETTINGS = re.compile(
    "output_dir|overwrite_output_dir|resume_from_checkpoint|allow_config_change|on_nan|max_restores|push_to_hub|hub_.*|license"
)

MARK = "<!-- made by hf_wgan ({}); write above or below, and it stays when the card is made again -->"
END = "<!-- end of what hf_wgan made -->"
_MARKS = re.compile(MARK.format("@").replace("(@)", r"\((\w+) (\w+) (\w+)\)") + "\n(.*)\n" + END, re.DOTALL)
_DIFFUSERS_CARD = "<!-- This model card has been generated automatically"
_SPACE_CARD = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
_BESIDE = Path(__file__).with_name("model_card_template.md")  # where the wheel has it
_IN_CHECKOUT = Path(__file__).parents[2] / "model_cards" / "template.md"


def write_card(folder: Path) -> None:
    """Makes or brings up to date the `README.md` of a pipeline's folder."""
    path = folder / files.CARD
    existing = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(merge(make_card(folder, folder.resolve().name), existing), encoding="utf-8")


def record_evaluation(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Puts figures into a run's `evaluation.json`, in place of older ones of the same type by the same features, and
    into its card.

    Args:
        folder: The run's folder.
        rows: `metric_type`, `metric_name` and `metric_value` of each, and its `settings`.
    """

    def kind(row: dict[str, Any]) -> tuple[str, str | None]:
        return row["metric_type"], row["settings"].get("features")

    new = set(map(kind, rows))
    kept = [row for row in _read(folder / files.EVALUATION) or [] if kind(row) not in new]
    (folder / files.EVALUATION).write_text(json.dumps([*kept, *rows], indent=2) + "\n")
    write_card(folder)


def make_card(folder: Path, name: str) -> str:
    """The card of a folder that holds a pipeline and, if it is of a run, the run's record.

    Args:
        folder: The folder.
        name: What the usage examples load: the folder's name, or that of the repository.
    """
    index = _read(folder / files.INDEX)
    run = _read(folder / files.CONFIG)
    networks = {part: _network(folder / part, index[part][1]) for part in files.NETWORKS if index.get(part)}
    metrics = folder / files.METRICS
    last = json.loads(metrics.read_text().splitlines()[-1]) if metrics.is_file() and metrics.stat().st_size else None
    dataset = {**run["dataset"], "label": _label(run["dataset"])} if run else None
    evaluations = _read(folder / files.EVALUATION) or []
    samples = sorted((folder / files.SAMPLES).glob("step-*.png"))
    settings = ({"preset": run["preset"]} if run.get("preset") else {}) | run.get("training", {})
    data = ModelCardData(
        license=run.get("training", {}).get("license", "unknown"),
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=["hf_wgan", "wgan", "gan", "wasserstein", TASK],
        datasets=[dataset["hub_id"]] if dataset and dataset.get("hub_id") else None,
        base_model=run.get("base_model"),
        model_name=name.rpartition("/")[2],
        eval_results=_results(dataset, last, evaluations) if dataset else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_BESIDE if _BESIDE.is_file() else _IN_CHECKOUT),
        name=name,
        title=name.rpartition("/")[2],
        usage=usage_of(index),
        networks=networks,
        generator=networks["generator"],
        dataset=dataset,
        last=last,
        comparable=_comparable(evaluations),
        sample_grid=f"{files.SAMPLES}/{samples[-1].name}" if samples else None,
        curves=files.CURVES if (folder / files.CURVES).is_file() else None,
        command=run.get("command"),
        machine=run.get("machine"),
        versions=run.get("versions", {}),
        base_model=run.get("base_model"),
        settings={key: value for key, value in settings.items() if not NOT_SETTINGS.fullmatch(key)},
    )
    return assemble(card.data.to_dict(), "", card.text.strip(), "")


def merge(made: str, local: str, published: str = "") -> str:
    """A card made from a run, with what was written by hand into the copies of an earlier one.

    Text outside the marks stays; where both copies have some, that of the one which was changed since they parted, or
    both if both were. Where the text between the marks was changed, or the marks were removed, the whole text of that
    card is kept. Of the metadata, what a person added or changed stays, except what describes the run.

    Args:
        made: What `make_card` returned.
        local: The card in the folder; empty if there is none.
        published: The card in the repository; empty if there is none.
    """
    new, mine, theirs = _parse(made), _parse(local), _parse(published)
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
    return assemble(data, before, new.made, after, new.data)


@dataclass(frozen=True)
class _Card:
    data: dict[str, Any]
    text: str  # all but the metadata
    made: str  # between the marks
    by_hand: tuple[str, str]  # above and below them
    base: str  # digest of by_hand when the card was written
    data_by_hand: dict[str, Any]  # the metadata that was not made
    data_changed: bool  # since the card was written
    whole_is_by_hand: bool


def _parse(content: str) -> _Card:
    header = re.match(r"\A---\r?\n(.*?\n)---\r?\n?", content, re.DOTALL)
    try:
        data = yaml.safe_load(header[1]) if header else {}
    except yaml.YAMLError:
        data = {}
    data = data if isinstance(data, dict) else {}
    text = content[header.end() :] if header else content
    if (marks := _MARKS.search(text)) is None:
        is_nobodys = text.strip() in ("", _SPACE_CARD) or _DIFFUSERS_CARD in text
        return _Card(data, text, "", ("", ""), _digest(("", "")), data, bool(data), not is_nobodys)
    made_digest, base, data_digests, made = marks.groups()
    by_hand = text[: marks.start()].strip(), text[marks.end() :].strip()
    data_digest, pieces = data_digests[:12], set(re.findall(".{6}", data_digests[12:]))
    data_changed = _digest(data) != data_digest
    data_by_hand = {key: value for key, value in data.items() if _piece(key, value) not in pieces}
    if not pieces and not data_changed:  # a card of before there were digests of pieces
        data_by_hand = {}
    return _Card(data, text, made, by_hand, base, data_by_hand, data_changed, _digest(made) != made_digest)


def metadata(content: str) -> dict[str, Any]:
    """Of a card; empty if it has none that can be read."""
    return _parse(content).data


def assemble(data: dict[str, Any], before: str, made: str, after: str, data_made: dict[str, Any] | None = None) -> str:
    """A card.

    Args:
        data: Its metadata.
        before: What was written by hand above what is made.
        made: What is made.
        after: What was written by hand below it.
        data_made: What of the metadata is made; by default all.
    """
    pieces = "".join(_piece(key, value) for key, value in (data if data_made is None else data_made).items())
    mark = MARK.format(f"{_digest(made)} {_digest((before, after))} {_digest(data)}{pieces}")
    parts = [part for part in (before, f"{mark}\n{made}\n{END}", after) if part]
    return f"---\n{_yaml(data)}---\n\n" + "\n\n".join(parts) + "\n"


def _merge_data(made: dict[str, Any], *by_hand: dict[str, Any]) -> dict[str, Any]:
    data = dict(made)
    for changes in by_hand:
        for key, value in changes.items():
            if key in ALWAYS_MADE and key in made:
                continue
            if isinstance(value, list) and isinstance(data.get(key), list):
                data[key] = list(dict.fromkeys([*data[key], *value]))
            elif data.get(key) == made.get(key):  # the first copy goes first
                data[key] = value
    return data


def _both(first: str, second: str) -> str:
    """The first text, and those paragraphs of the second that it does not have."""
    paragraphs = first.split("\n\n")
    return "\n\n".join([*paragraphs, *(part for part in second.split("\n\n") if part not in paragraphs)]).strip()


def _results(dataset: dict[str, Any], last: dict[str, Any] | None, evaluations: list[Any]) -> list[EvalResult] | None:
    about = {
        "task_type": TASK,
        "dataset_type": dataset.get("hub_id") or dataset["label"],
        "dataset_name": dataset["label"],
    }
    results = [
        EvalResult(**about, **{key: row[key] for key in row if key.startswith("metric_")}) for row in evaluations
    ]
    if last:
        name = f"Wasserstein estimate of this critic on training images, at step {last['step']}"
        value = round(last["wasserstein_estimate"], 6)
        results.append(EvalResult(**about, metric_type="wasserstein_estimate", metric_name=name, metric_value=value))
    return results or None


def _comparable(evaluations: list[Any]) -> list[tuple[str, list[Any]]]:
    """Figures of the same settings together, with what these are: only such may stand in one table."""
    groups: dict[str, list[Any]] = {}
    for row in evaluations:
        settings = {key: value for key, value in row["settings"].items() if key != "real_images_instead"}
        label = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in settings.items())
        groups.setdefault(label, []).append(row)
    return list(groups.items())


def _network(folder: Path, class_name: str) -> dict[str, Any]:
    config = _read(folder / "config.json")
    arguments = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    return {"class": class_name, **arguments}


def _label(dataset: dict[str, Any]) -> str:
    """What the card calls the dataset: a local one by the last part of its path."""
    return dataset.get("hub_id") or Path(dataset["name"]).name


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else {}


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _piece(key: str, value: Any) -> str:
    return _digest((key, value))[:6]


def _digest(text: Any) -> str:
    return hashlib.sha256(repr(text).encode()).hexdigest()[:12]
