"""``python -m fiftyone_ntt``: the same as the command ``fiftyone-ntt``."""

import sys

from fiftyone_ntt.cli.main import main

sys.exit(main())
