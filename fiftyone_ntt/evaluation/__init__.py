"""Scores against ground truth, and semantic segmentation masks."""
