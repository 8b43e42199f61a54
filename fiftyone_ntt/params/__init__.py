"""Every setting of every service, declared once for SDK, App and command line."""
