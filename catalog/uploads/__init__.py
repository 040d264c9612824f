"""Uploads in several requests, until their last byte makes them a file of their dataset."""
