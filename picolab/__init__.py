"""picolab: honest, reproducible benchmarks of PicoShare that live in notebooks.

In a notebook: `import picolab as pl`. Everything is imported when it is first used.

    pl.open_trial(ram_mb=256, file_size="100M")     one trial, stage by stage
    pl.run("parameters/quick.yaml")                 a campaign, shown while it runs
    pl.resume("demo")                               the rest of a campaign that was stopped
    pl.campaigns()                                  the campaigns of this project
    pl.load("demo")                                 a campaign as pandas frames, with charts
    pl.compare("demo", margin=0.05)                 its builds against each other
    pl.open_history()                               builds over time, with change points
"""

__version__ = "0.1.0"

_MODULES = {
    "CampaignResults": "picolab.api.campaigns",
    "ComparisonResults": "picolab.api.comparison",
    "HistoryResults": "picolab.api.history",
    "Trial": "picolab.trial.trial",
    "campaigns": "picolab.api.campaigns",
    "compare": "picolab.api.comparison",
    "load": "picolab.api.campaigns",
    "open_history": "picolab.api.history",
    "open_trial": "picolab.api.trials",
    "resume": "picolab.api.running",
    "run": "picolab.api.running",
}
"""Where each public name is defined. No name of a room may be one of them."""

__all__ = [
    "CampaignResults",
    "ComparisonResults",
    "HistoryResults",
    "Trial",
    "campaigns",
    "compare",
    "load",
    "open_history",
    "open_trial",
    "resume",
    "run",
]

TYPE_CHECKING = False  # as in typing, which takes a millisecond to import
if TYPE_CHECKING:
    from picolab.api.campaigns import CampaignResults, campaigns, load
    from picolab.api.comparison import ComparisonResults, compare
    from picolab.api.history import HistoryResults, open_history
    from picolab.api.running import resume, run
    from picolab.api.trials import open_trial
    from picolab.trial.trial import Trial


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'picolab' has no attribute {name!r}; public are {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
