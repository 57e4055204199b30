"""Entry point of ``python -m text``, which is the same as ``dpr-text``."""

import sys

try:
    from text.commands import main
except KeyboardInterrupt:
    print("dpr-text: error: stopped by SIGINT", file=sys.stderr)
    sys.exit(143)

sys.exit(main())
