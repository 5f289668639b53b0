"""``python -m edge_mnist`` is ``edge-mnist``."""

from edge_mnist.cli import main

if __name__ == "__main__":
    main()
