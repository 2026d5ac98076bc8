"""``python -m bd3cli``, which is also what ``torchrun -m bd3cli`` starts."""

from bd3cli.cli.main import main

if __name__ == "__main__":
    main()
