"""The model card and publishing."""
