"""A typed client of the API of a Gwanje tenant.

`connect` returns a client for the operations in `gwanje_client.generated.api`; `unwrap`, `pages`, `changes` and
`events` read their answers.
"""

from .answers import ApiProblem, unwrap
from .connection import connect
from .events import Event, events
from .pages import changes, pages

__all__ = ["ApiProblem", "Event", "changes", "connect", "events", "pages", "unwrap"]
