"""`manage.py makemessages`: Django's command, limited to the product's own texts."""

from typing import Any

from django.core.management.commands import makemessages

# Texts that appear on no page: tests, the simulator and the device client.
LEFT_OUT = ("tests/*", "management/simulator/*", "tests/benchmarks/*", "docs/*", "deploy/*", "static/*", "var/*")


class Command(makemessages.Command):
    """Collects the texts of the interface into `locale/`. Needs GNU gettext."""

    # _t is gettext where _ is gettext_lazy.
    xgettext_options = [*makemessages.Command.xgettext_options, "--keyword=_t"]  # noqa: RUF012 (as the base class has it)
    # A fuzzy match is not shown and easily overlooked.
    msgmerge_options = [*makemessages.Command.msgmerge_options, "--no-fuzzy-matching"]  # noqa: RUF012 (as the base class has it)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        ours = {"ignore_patterns": [*options["ignore_patterns"], *LEFT_OUT], "no_wrap": True, "no_obsolete": True}
        super().handle(*args, **{**options, **ours, "add_location": "file"})
