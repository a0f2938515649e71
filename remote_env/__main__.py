"""``python -m remote_env`` is ``remote-env``."""

import sys

from remote_env.cli import main

sys.exit(main())
