"""Uploaded files, the images and captions read from them, and frozen versions."""
