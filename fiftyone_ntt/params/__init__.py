"""Every setting of every service, declared once: type, limits, label and help, for form, command, call and run record.

The bottom room: it imports nothing of the package but ``errors``.
"""
