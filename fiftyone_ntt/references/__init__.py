"""From tags and labels of any kind to a memory bank. Begin with ``build``."""
