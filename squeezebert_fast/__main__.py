"""`python -m squeezebert_fast`: the program `squeezebert-fast`."""

from squeezebert_fast.cli import main

if __name__ == "__main__":
    main()
