"""`python -m jobs` is the command `captionmill`, for where it is not on the PATH."""

from jobs.cli import main

if __name__ == "__main__":
    main(prog_name="captionmill")
