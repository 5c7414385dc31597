"""The Vagrant machine: a virtual machine with limited RAM."""
