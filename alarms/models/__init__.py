"""Models of a tenant's alarms: rules with their versions, episodes with their transitions, and the progress."""

from .episodes import AlarmEpisode, AlarmSeries, AlarmTransition, EpisodeEnd
from .rules import AlarmProgress, AlarmRule, AlarmRuleVersion, ListenerOutage

__all__ = [
    "AlarmEpisode",
    "AlarmProgress",
    "AlarmRule",
    "AlarmRuleVersion",
    "AlarmSeries",
    "AlarmTransition",
    "EpisodeEnd",
    "ListenerOutage",
]
