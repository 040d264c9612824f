"""`patina demo`: the whole way once, with pictures that show it worked."""
