"""`python -m worker`: answer the commands of the client until it closes the pipe."""

import sys

sys.path.pop(0)  # the current folder: the client's modules there must not hide other packages

from .serve import main

if __name__ == "__main__":
    main()
