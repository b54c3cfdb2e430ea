"""Convert a checkpoint of the Wasserstein GAN authors' own code into a pipeline folder, as `hf-wgan convert` does.

python scripts/convert_original_wgan.py netG_epoch_24.pth --config generator_config.json --critic netD_epoch_24.pth
"""

from hf_wgan.cli.convert import convert

if __name__ == "__main__":
    raise SystemExit(convert())
