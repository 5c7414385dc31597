"""The examination of a server: each check does something to it, and looks for one known weakness."""
