"""`python -m worker`: answer the commands of the client until it closes the pipe."""

from .serve import main

if __name__ == "__main__":
    main()
