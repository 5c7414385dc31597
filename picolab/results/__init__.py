"""The files of a campaign, read with tolerance, and what they say."""
