"""Converts a checkpoint of the Wasserstein GAN authors' own code into a pipeline folder, wgan-converted by default.

python scripts/convert_original_wgan.py netG_epoch_24.pth --config generator_config.json --critic netD_epoch_24.pth
"""

from hf_wgan.cli.convert import convert_original_wgan

if __name__ == "__main__":
    raise SystemExit(convert_original_wgan(__doc__))
