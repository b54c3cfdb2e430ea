"""`python -m hf_wgan COMMAND …` is `hf-wgan COMMAND …`."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
