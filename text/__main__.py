"""``python -m text`` is the same as ``dpr-text``."""

import sys

from text.commands import main

sys.exit(main())
