"""``fiftyone-ntt demo``: the whole way on a small dataset, with pictures."""
