"""`manage.py replay_quarantine --tenant demo`: process refused messages again, without a worker."""

import time
from argparse import ArgumentTypeError
from datetime import datetime
from typing import Any
from uuid import UUID

import django.db
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django_tenants.utils import schema_context

from devices.models import Device
from telemetry.models import Reason, Replay
from telemetry.services.quarantine import replays, unrouted
from tenants.infrastructure.retry import DATABASE_LOST, Backoff, first_line
from tenants.models import Tenant

# The interval of the report while a worker does the replay.
_REPORT_SECONDS = 1.0


def moment(text: str) -> datetime:
    """Return a time with an offset."""
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is None or timezone.is_naive(found):
        raise ArgumentTypeError(f"{text!r} is not a time with an offset; write it like 2026-11-22T09:30:00Z")
    return found


class Command(BaseCommand):
    help = "Processes quarantined messages again, after their cause is corrected."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--tenant", metavar="SLUG", help="the quarantine of this tenant")
        which.add_argument(
            "--unrouted", action="store_true", help="messages of no tenant whose device is registered by now"
        )
        parser.add_argument("--reason", choices=Reason.values, default="", help="only those with this reason")
        parser.add_argument("--device", type=UUID, metavar="UUID", help="only those of this device")
        parser.add_argument("--topic", default="", help="only those with this in the topic")
        parser.add_argument("--from", type=moment, dest="start", metavar="T", help="last received not before")
        parser.add_argument("--to", type=moment, dest="stop", metavar="T", help="last received before")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        if options["unrouted"]:
            narrowing = [name for name in ("reason", "device", "topic", "start", "stop") if options[name]]
            if narrowing:
                raise CommandError("--unrouted replays all messages of no tenant: leave out the other options.")
            self._replay_unrouted()
            return
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {options['tenant']!r}.")
        if tenant.state != Tenant.State.ACTIVE:
            raise CommandError(f"The tenant {tenant.slug} is {tenant.get_state_display()}: its messages are refused.")
        with schema_context(tenant.schema_name):
            self._replay(options)

    def _replay(self, options: dict[str, Any]) -> None:
        device = None
        if options["device"] is not None:
            device = Device.objects.filter(uuid=options["device"]).first()
            if device is None:
                raise CommandError(f"The tenant has no device {options['device']}.")
        selection = replays.ReplaySelection(
            options["reason"], device, options["topic"], options["start"], options["stop"]
        )
        try:
            replay = replays.begin(selection, queue=False)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        self.stdout.write(f"Replay {replay.pk}: {replay.total} messages.")
        try:
            self._follow(replay)
        except KeyboardInterrupt:
            replays.cancel(replay)
            self._show(replay)
            raise CommandError("Cancelled: what is done stays done.") from None

    def _follow(self, replay: Replay) -> None:
        """Continue until it has ended, also where a worker resumes it or PostgreSQL is unavailable for a while."""
        backoff = Backoff()
        while True:
            try:
                replays.step(replay.pk, report=self._show, queue=False)
                replay.refresh_from_db()
            except DATABASE_LOST as error:
                self.stdout.write(f"PostgreSQL is unavailable ({first_line(error)}): waiting.")
                django.db.connection.close()
                time.sleep(backoff.fail())
                continue
            backoff.reset()
            if not replay.is_under_way:
                break
            self._show(replay)
            time.sleep(_REPORT_SECONDS)
        if replay.state == Replay.State.CANCELLED:
            raise CommandError("Another process cancelled it: what is done stays done.")
        gone = f", {replay.gone} had left the quarantine before their turn" if replay.gone else ""
        self.stdout.write(f"Done{gone}.")

    def _show(self, replay: Replay) -> None:
        refused = ", ".join(f"{times} {reason}" for reason, times in sorted(replay.refused.items()))
        self.stdout.write(
            f"{replay.settled} of {replay.total}: {replay.stored} stored, {replay.duplicates} duplicates, "
            f"{replay.refused_total} refused again{f' ({refused})' if refused else ''}"
            f"{f'. {replay.note}' if replay.note else ''}"
        )

    def _replay_unrouted(self) -> None:
        def show(total: unrouted.UnroutedResult) -> None:
            refused = ", ".join(f"{times} {reason}" for reason, times in sorted(total.refused.items()))
            self.stdout.write(
                f"{total.seen} processed: {total.stored} stored, {total.duplicates} duplicates, "
                f"{sum(total.refused.values())} in their tenants' quarantine{f' ({refused})' if refused else ''}, "
                f"{total.left} still belong to no tenant"
            )

        show(unrouted.replay(report=show))
