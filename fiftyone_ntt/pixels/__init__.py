"""Frames, images, masks, run lengths, outlines and drawing. Knows no class and no memory bank."""
