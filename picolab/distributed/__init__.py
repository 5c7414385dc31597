"""Campaigns whose trials run on many hosts, through a scheduler of Dask."""
