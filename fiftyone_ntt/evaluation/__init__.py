"""Scores against ground truth, and semantic segmentation masks. AP comes from pycocotools, mIoU from ``semantic``."""
