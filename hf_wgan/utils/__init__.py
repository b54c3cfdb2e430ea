"""The small ground that everything stands on: errors, files, console, grids, options, signals, memory."""
