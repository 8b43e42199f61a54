"""Stage one for many images: the stream, the compact form of an image, and the candidate cache on disk.

Never sees a reference, so what is stored is good for every memory bank. A change of the stored bytes needs a new
format number (``file_format``).
"""
