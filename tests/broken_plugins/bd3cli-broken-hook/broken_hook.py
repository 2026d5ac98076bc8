"""A plugin whose hook is misspelt: one letter is missing."""

from bd3cli import hookimpl


@hookimpl
def register_noise_schedule(register):
    register("never-seen", "broken_hook:Nothing")
