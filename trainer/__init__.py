"""The trainer: a process and a folder. It turns a recipe, a base and a data set into weights in a run directory."""
