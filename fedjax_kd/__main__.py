"""``python -m fedjax_kd`` is ``fedjax-kd``."""

from fedjax_kd.cli import main

if __name__ == "__main__":
    main()
