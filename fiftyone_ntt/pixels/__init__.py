"""Frames, images, packed masks, run lengths, outlines, semantic segmentation masks, drawing.

Knows no class and no memory bank. Begin with ``frames``: every array of pixels is in a frame that is named.
"""
