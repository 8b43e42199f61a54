"""The command line ``fiftyone-ntt``: a command parses, calls one service, and prints what came of it."""
