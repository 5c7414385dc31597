"""The local machine: a process of this host in a memory cgroup."""
