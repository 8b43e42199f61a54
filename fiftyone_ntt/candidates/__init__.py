"""Stage one at scale: many images at once, the compact form, and the candidate index on disk. Sees no reference."""
