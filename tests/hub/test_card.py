from conftest import tiny_critic, tiny_generator, tiny_images
from huggingface_hub import ModelCard

from hf_wgan import WGANTrainer


def test_the_card_of_a_run_holds_its_settings_figures_and_pictures(tiny_config, tmp_path):
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(clip_value=0.0123)).train()
    card = ModelCard.load(tmp_path / "run" / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert "hf_wgan" in data["tags"]
    text = card.content
    assert "| clip_value | 0.0123 |" in text
    assert "8×8 pixels" in " ".join(text.split())
    assert "4 generator updates" in text
    assert "(samples/step-000004.png)" in text and "(curves.png)" in text
    assert "{{" not in text and "{%" not in text


def test_the_usage_block_of_the_card_runs(tiny_config, tmp_path, monkeypatch):
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config()).train()
    text = (tmp_path / "run" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert len(names["images"]) == 16
