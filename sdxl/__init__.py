"""The model, shared by training and serving; the only package that knows SDXL."""
