"""The history of a site: all campaigns in one store that can be queried."""
