"""Pictures of runs: what is drawn, and how runs are told apart."""

import json
from pathlib import Path

import pytest
from conftest import tiny_critic, tiny_generator, tiny_images
from matplotlib.figure import Figure
from PIL import Image

from hf_wgan import InputError, WGANTrainer
from hf_wgan.algorithm.lipschitz import CONSTRAINTS
from hf_wgan.cli.plot import plot
from hf_wgan.training.curves import compare_runs, plot_runs


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in order."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: figures.append(self) or save(self, *args, **options)
    )
    return figures


def run(folder, height, measured=False, **settings):
    folder.mkdir()
    rows = [
        {"step": 10 * k, "seconds": 2.5 * k, "wasserstein_estimate": height / k, "generator_loss": -float(k)}
        for k in range(1, 41)
    ]
    if measured:
        rows[19]["frechet_distance"], rows[39]["frechet_distance"] = 80.0, 40.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half": 1')
    config = {"lipschitz": "clip", "n_critic": 5, "output_dir": str(folder), **settings}
    networks = {"generator": {"width": 64}, "critic": {"width": 64}}
    record = {"training": config, **networks, "dataset": {"name": "d"}, "machine": {"mixed_precision": "no"}}
    (folder / "training_config.json").write_text(json.dumps(record))
    return str(folder)


def test_runs_are_compared_in_one_picture_that_names_their_differences(tmp_path, drawn, capsys):
    one, other = run(tmp_path / "one", 1.0), run(tmp_path / "other", 3.0, measured=True, lipschitz="gp")
    picture = tmp_path / "runs.png"
    assert plot([one, other, "--output", str(picture), "--against", "seconds"]) == 0
    assert Image.open(picture).width > 500 and str(picture) in capsys.readouterr().out
    (figure,) = drawn
    labels = ["Wasserstein estimate"] * 2 + ["generator loss"] * 2 + ["Fréchet distance"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels, "the scale of an estimate belongs to its constraint"
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["clip", "gp", "clip", "gp", ""]
    assert [text.get_text() for text in figure.legends[0].texts] == ["one (lipschitz clip)", "other (lipschitz gp)"]
    raw = figure.axes[1].lines[0]
    assert raw.get_ydata()[:2] == pytest.approx([3.0, 1.5]) and raw.get_xdata()[:2] == pytest.approx([2.5, 5.0])
    (points,) = figure.axes[4].lines
    assert list(points.get_ydata()) == [80.0, 40.0] and points.get_xdata() == pytest.approx([50.0, 100.0])


@pytest.mark.parametrize("interval", [1, 8])
def test_evaluations_with_other_settings_begin_another_line(interval, tmp_path, drawn):
    """They are on another scale; whatever else is reported goes on in one line."""
    rows = [{"step": step, "seconds": float(step), "wasserstein_estimate": 1.0, "r_v": 0.5} for step in range(1, 41)]
    for row in rows[interval - 1 :: interval]:
        is_late = row["step"] > 20
        row |= {"frechet_distance": 90.0 if is_late else 2.0, "evaluation_settings": f"features {is_late}"}
    plot_runs({"": rows}, tmp_path / "curves.png", ["wasserstein_estimate", "frechet_distance"])
    estimates, distances = drawn[0].axes
    assert [len(line.get_xdata()) for line in estimates.lines[:2]] == [40, 40]
    lines = distances.lines if interval > 1 else distances.lines[1::2]
    assert [set(line.get_ydata()) for line in lines] == [{2.0}, {90.0}]
    assert len({line.get_color() for line in lines}) == 1
    assert len([line for line in lines if not line.get_label().startswith("_")]) == int(interval == 1)


def test_what_has_no_effect_in_a_run_is_not_named(tmp_path, tiny_config, drawn):
    """Neither in the title of its axes nor in the legend."""
    titles = {"clip": "clip 0.01", "none": "none", "spectral": "spectral"}
    folders = []
    for name in CONSTRAINTS:
        folders.append(run(tmp_path / name, 1.0))
        norm, is_spectral = "batch" if name == "clip" else "none", name == "spectral"
        critic = tiny_critic(norm_type=norm, spectral_norm=is_spectral)
        options = {"penalty_interval": 4} if name == "lp" else {}
        trainer = WGANTrainer(tiny_generator(), critic, tiny_images(), tiny_config(lipschitz=name, **options))
        Path(folders[-1], "training_config.json").write_text(json.dumps(trainer.describe()))
    assert plot([*folders, "--output", str(tmp_path / "runs.png")]) == 0
    estimates = [axes for axes in drawn[0].axes if axes.get_ylabel() == "Wasserstein estimate"]
    assert [axes.get_title(loc="right") for axes in estimates] == [
        titles.get(name, f"{name} 10.0") for name in CONSTRAINTS
    ]
    legends = dict(zip(CONSTRAINTS, (text.get_text() for text in drawn[0].legends[0].texts)))
    assert "penalty_interval 1" in legends["gp"] and "penalty_interval 4" in legends["lp"]
    assert not any("penalty_interval" in legends[name] for name in titles)


def test_a_legend_does_not_list_each_class_or_cluster(tmp_path, drawn):
    folders = [run(tmp_path / str(seed), 1.0, seed=seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        path = Path(folder, "training_config.json")
        record = json.loads(path.read_text())
        own = {"num_classes": 2, "class_names": [f"a{seed}", "b"], "class_frequencies": [1, 2 + seed]}
        path.write_text(json.dumps(record | {"generator": record["generator"] | own}))
    compare_runs([*map(Path, folders)], tmp_path / "runs.png")
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["0 (seed 0)", "1 (seed 1)"]


def test_runs_of_one_constraint_share_their_axes(tmp_path, drawn):
    one, other = run(tmp_path / "one", 1.0, n_critic=1), run(tmp_path / "other", 3.0)
    assert plot([one, other, "--output", str(tmp_path / "runs.png")]) == 0
    assert [len(axes.lines) for axes in drawn[0].axes] == [5, 4], "raw and filtered each, and the zero line"


def test_one_run_is_drawn_raw_and_filtered(tmp_path, drawn):
    assert plot([run(tmp_path / "one", 1.0), "--output", str(tmp_path / "one.png")]) == 0
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().texts] == ["raw", "median of 3 reports"]


def test_a_quotient_by_almost_nothing_does_not_flatten_its_curve(tmp_path, drawn):
    rows = [{"step": step, "r_v": 1e6 if step == 7 else 0.5} for step in range(20)]
    plot_runs({"run": rows}, tmp_path / "curves.png", ["r_v"])
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 0 < 1 < high < 10


def test_the_first_steps_do_not_flatten_the_curve_of_all_others(tmp_path, drawn):
    def limits(first):
        estimates = [first, *(0.1 - 0.001 * step for step in range(1, 60))]
        rows = [{"step": step, "wasserstein_estimate": estimate} for step, estimate in enumerate(estimates)]
        plot_runs({"run": rows}, tmp_path / "curves.png", ["wasserstein_estimate"])
        return drawn[-1].axes[0].get_ylim()

    low, high = limits(first=5.0)
    assert -0.01 < low <= 0 < 0.1 < high < 0.12
    assert limits(first=0.2)[1] > 0.2


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path, drawn):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [run(tmp_path / "a" / "wgan", 1.0), run(tmp_path / "b" / "wgan", 2.0)]
    assert plot([*runs, "--output", str(tmp_path / "runs.png")]) == 0
    assert [text.get_text() for text in drawn[0].legends[0].texts] == runs


def test_runs_whose_names_begin_with_an_underscore_are_in_the_legend(tmp_path, drawn):
    runs = [run(tmp_path / name, 1.0) for name in ("_one", "_other")]
    assert plot([*runs, "--output", str(tmp_path / "runs.png")]) == 0
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["./_one", "./_other"]


@pytest.mark.parametrize(
    "again, says",
    [
        ("r/x", "'r/x' is named twice"),
        ("./r/x/", "'r/x' is named twice"),
        ("r/../r/x", "'r/../r/x' is named as 'r/x' too"),
        ("{absolute}", "is named as 'r/x' too"),
        ("link", "'link' is named as 'r/x' too"),
    ],
)
def test_a_run_that_is_named_twice_is_refused(again, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "r").mkdir()
    run(tmp_path / "r" / "x", 1.0)
    run(tmp_path / "y", 1.0)
    (tmp_path / "link").symlink_to("r/x")
    monkeypatch.chdir(tmp_path)
    assert plot(["r/x", "y", again.format(absolute=tmp_path / "r" / "x")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: runs: ") and f"{says}; name each folder once\n" in error
    assert not (tmp_path / "runs.png").exists()
    with pytest.raises(InputError, match="is named twice"):
        compare_runs([Path("y")] * 2, Path("runs.png"))


def test_empty_and_repeated_metrics_are_left_out(tmp_path, drawn, capsys):
    one, picture = run(tmp_path / "one", 1.0), tmp_path / "p.png"
    assert plot([one, "--metrics", ", generator_loss,,generator_loss ,", "--output", str(picture)]) == 0
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["generator loss"]
    assert plot([one, "--metrics", " , ", "--output", str(picture)]) == 2
    assert "metrics=' , ': holds no name; name one, or several separated by commas" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_named(tmp_path, capsys):
    one, picture = run(tmp_path / "one", 1.0), tmp_path / "p.png"
    for arguments, says in (
        ([str(tmp_path)], "there is no metrics.jsonl in it with a report; name a run's folder"),
        ([one, "--metrics", "loss"], "metrics='loss': no run has it; they have generator_loss, wasserstein_estimate"),
    ):
        assert plot([*arguments, "--output", str(picture)]) == 2
        assert says in capsys.readouterr().err
    assert not picture.exists()
    assert plot([one, "--output", "picture.xyz"]) == 2
    assert "output='picture.xyz': must end in .png, .svg or .pdf" in capsys.readouterr().err
