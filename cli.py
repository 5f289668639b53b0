"""From a checkout: ``python cli.py ...`` is ``edge-mnist ...``."""

from edge_mnist.cli import main

if __name__ == "__main__":
    main()
