"""Which utterance goes to the engine next, when more are asked for than it can speak at once.

In: tickets, one for each utterance, with the name of their caller. Out: `begin()` is called on the
ticket that gets a free place. Policy only: no clock, no I/O.

The engine's own queue is first come, first served, so it is given little more than it can speak at
once; the other tickets wait here, in one line for each caller. A free place goes to the caller with
the fewest utterances under way; callers that have equally many take turns. So two busy callers come
to have half of the places each, while one who is alone may have all.

An utterance that has begun is never broken off, so a newcomer may have to wait until one of the
others ends. To make that rare there are a few more places, one for each SPARE, that only a caller
with nothing under way can get.

Where places are tight (on a CPU, where each utterance more slows down all others), one caller could
still fill all places in the moment between two requests of another, and speaks among many whatever
that one asks for. There nobody is given more than a third of the places while another caller is
active that has fewer. A caller is active while it has an utterance under way, and from the end of
its last one until as many more tickets have begun as there are places.

When too many tickets wait, the newest one of the longest line is refused, in favour of a caller
whose line is shorter. Firm tickets are never refused: they belong to an answer, or a batch, that
has already begun.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from engine import QueueFullError

SPARE = 8  # one place more in so many, for newcomers
TIGHT_SHARE = 3  # where places are tight, one in so many for a caller among others


class Ticket(Protocol):
    """One utterance that wants a place. Compared by identity."""

    @property
    def who(self) -> str: ...

    @property
    def is_firm(self) -> bool: ...

    def begin(self) -> bool:
        """Take the place. False: it needs none any more. QueueFullError: not possible now."""
        ...

    def refuse(self, error: QueueFullError) -> None: ...


class FairQueue:
    """`num_places` is asked anew each time, as workers come and go; 0: begin, which says why not.
    So is `is_tight`.

    Every ticket that entered must `leave`, once, unless it was refused or would not begin.
    """

    def __init__(
        self,
        num_places: Callable[[], int],
        max_waiting: int,
        is_tight: Callable[[], bool] = lambda: False,
    ) -> None:
        self._num_places = num_places
        self._max_waiting = max_waiting
        self._is_tight = is_tight
        self._lines: OrderedDict[str, OrderedDict[Ticket, None]] = OrderedDict()
        self._active: dict[str, int] = {}
        self.num_waiting = self.num_active = 0
        self._num_soft = 0  # of those that wait: not firm
        self._num_begun = 0
        self._left_at: OrderedDict[str, int] = OrderedDict()  # who has none: _num_begun at the last

    def enter(self, ticket: Ticket, ahead: bool = False) -> None:
        """Begin the ticket, or let it wait: at the end of its caller's line, or `ahead` of it.
        QueueFullError where too many wait.
        """
        if not ticket.is_firm:
            self.check_room(ticket.who)
            if self._must_push():
                self._push_out()
        self._put(ticket, ahead)
        self._serve()

    def check_room(self, who: str) -> None:
        """QueueFullError where a new ticket of this caller would be refused."""
        if not self._must_push():
            return
        is_shorter = len(self._lines.get(who, ())) + 1 < len(self._longest())
        if not is_shorter or (self._num_soft >= self._max_waiting and self._victim() is None):
            under_way = self.num_active + self.num_waiting
            raise QueueFullError(f"{under_way} utterances are already running or waiting")

    def leave(self, ticket: Ticket) -> None:
        """The ticket has ended, or does not want to wait any longer."""
        if not self._take_out(ticket):
            self._count(ticket, -1)
        self._serve()

    def num_active_of(self, who: str) -> int:
        return self._active.get(who, 0)

    def is_alone(self, who: str) -> bool:
        """Asked when an utterance begins: it is the only one of its caller."""
        return self.num_active_of(who) == 1

    def _is_full(self) -> bool:
        return 0 < self._num_places() <= self.num_active

    def _must_push(self) -> bool:
        return self._is_full() and self.num_waiting >= self._max_waiting

    def _serve(self) -> None:
        """Fill the free places."""
        while (ticket := self._next()) is not None:
            self._take_out(ticket)
            self._count(ticket, 1)
            try:
                if ticket.begin():
                    continue
                self._count(ticket, -1)
            except QueueFullError as error:
                self._count(ticket, -1)
                if self.num_active:  # whose end is when to try again
                    return self._put(ticket, ahead=True)
                ticket.refuse(error)

    def _next(self) -> Ticket | None:
        """The head of the line whose turn it is, if there is a place for it; the line's next turn
        comes after everybody else's.
        """
        who = self._whose_turn()
        if who is None:
            return None
        self._lines.move_to_end(who)
        return next(iter(self._lines[who]))

    def _whose_turn(self) -> str | None:
        who = min(self._lines, key=self.num_active_of, default=None)
        if who is None:
            return None
        places = self._num_places()
        has = self.num_active_of(who)
        has_share = 0 < max(1, places // TIGHT_SHARE) <= has
        if has_share and self._is_tight() and self._has_another_fewer(who):
            return None
        spare = 0 if has else places // SPARE
        return who if places == 0 or self.num_active < places + spare else None

    def _has_another_fewer(self, who: str) -> bool:
        self._forget()
        others = (*self._active, *self._left_at)
        return any(self.num_active_of(other) < self.num_active_of(who) for other in others)

    def _forget(self) -> None:
        """Those who left a while ago."""
        until = self._num_begun - self._num_places()
        while self._left_at and next(iter(self._left_at.values())) <= until:
            self._left_at.popitem(last=False)

    def _put(self, ticket: Ticket, ahead: bool) -> None:
        line = self._lines.setdefault(ticket.who, OrderedDict())
        line[ticket] = None
        line.move_to_end(ticket, last=not ahead)
        self.num_waiting += 1
        self._num_soft += not ticket.is_firm

    def _take_out(self, ticket: Ticket) -> bool:
        """False where it did not wait."""
        line = self._lines.get(ticket.who)
        if line is None or ticket not in line:
            return False
        del line[ticket]
        self.num_waiting -= 1
        self._num_soft -= not ticket.is_firm
        if not line:
            del self._lines[ticket.who]
        return True

    def _count(self, ticket: Ticket, change: int) -> None:
        self.num_active += change
        number = self.num_active_of(ticket.who) + change
        assert number >= 0, "a ticket leaves once"
        if number:
            self._active[ticket.who] = number
            self._left_at.pop(ticket.who, None)
        else:
            del self._active[ticket.who]
            self._forget()
            self._left_at[ticket.who] = self._num_begun
        self._num_begun += change > 0

    def _longest(self) -> OrderedDict[Ticket, None]:
        return max(self._lines.values(), key=len, default=OrderedDict())

    def _victim(self) -> Ticket | None:
        """The newest of the longest line that may be refused."""
        return next((t for t in reversed(self._longest()) if not t.is_firm), None)

    def _push_out(self) -> None:
        if ticket := self._victim():
            self._take_out(ticket)
            ticket.refuse(QueueFullError("others had waited for longer, or less"))
