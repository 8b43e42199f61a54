"""``fiftyone-ntt demo``: the way through on a small dataset, with pictures."""
