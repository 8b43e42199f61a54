"""The published tables of few-shot segmentation and detection, one command each. A run needs no FiftyOne."""
