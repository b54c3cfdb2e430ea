"""The `hf-wgan` command: one file for each group of subcommands, and launching."""
