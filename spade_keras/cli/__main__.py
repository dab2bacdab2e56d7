"""`python -m spade_keras.cli`."""

import sys

from spade_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
