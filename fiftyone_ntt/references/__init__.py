"""From tags and labels to a memory bank."""
