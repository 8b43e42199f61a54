"""What goes past the paper. An option is one file and one hook."""
