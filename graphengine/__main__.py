"""`graphengine` and `python -m graphengine`."""

from graphengine.cli import main

if __name__ == "__main__":
    main()
