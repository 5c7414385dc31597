"""The error of the agent."""


class Refusal(Exception):
    """A request that cannot be met; the text is the sentence of the answer."""
