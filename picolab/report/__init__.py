"""The pages of a campaign."""
