"""No Time to Train in the order of the paper, in numpy and torch only."""
