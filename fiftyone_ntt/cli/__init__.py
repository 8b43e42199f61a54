"""The command line ``fiftyone-ntt``."""
