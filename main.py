"""The command in a clone, without installing it: `python main.py --help`. Installed, it is `saddle-jax`."""

from saddle_jax.__main__ import run

if __name__ == "__main__":
    run()
