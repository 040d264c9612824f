"""One file a noun: thin functions over the catalog's services."""
