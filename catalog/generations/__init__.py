"""Generation requests and the images made for them."""
