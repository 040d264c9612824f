"""What the API answers, one file a noun; the words are the catalog's and the contracts'."""
