"""Campaigns: run a plan, one process for each trial, and never lose a measured result."""
