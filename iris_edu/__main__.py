"python -m iris_edu is the command iris-edu."
import sys

from .apps.cli import main

if __name__ == "__main__": sys.exit(main())
