"""Past the paper, and off by default: an option is one file here and one hook in ``method``."""
