import django.db.models.deletion
from django.db import migrations, models
from django.db.migrations.state import StateApps


RENAMED_MODELS = {
    "board": "preregistereddevice",
    "waitingmessage": "overflowmessage",
    "unroutedflood": "suppressedunroutedmessages",
}


def rename_permissions(apps: StateApps, renamed: dict[str, str]) -> None:
    """Let permissions follow the models' names, so that staff keep theirs."""
    permissions = apps.get_model("auth", "Permission").objects.filter(content_type__app_label="tenants")
    for old, new in renamed.items():
        for permission in permissions.filter(codename__endswith=f"_{old}"):
            permission.codename = permission.codename.removesuffix(old) + new
            permission.save(update_fields=["codename"])


def forwards(apps: StateApps, _schema_editor: object) -> None:
    rename_permissions(apps, RENAMED_MODELS)


def backwards(apps: StateApps, _schema_editor: object) -> None:
    rename_permissions(apps, {new: old for old, new in RENAMED_MODELS.items()})


class Migration(migrations.Migration):
    """Models and fields get other names; tables and columns keep theirs."""

    dependencies = [
        ("tenants", "0006_waiting"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        # The table's name is set first: then renaming the model renames its content type and no table.
        migrations.AlterModelTable(name="board", table="tenants_board"),
        migrations.RenameModel(old_name="Board", new_name="PreregisteredDevice"),
        migrations.AlterModelTable(name="waitingmessage", table="tenants_waitingmessage"),
        migrations.RenameModel(old_name="WaitingMessage", new_name="OverflowMessage"),
        migrations.AlterModelTable(name="unroutedflood", table="tenants_unroutedflood"),
        migrations.RenameModel(old_name="UnroutedFlood", new_name="SuppressedUnroutedMessages"),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField("preregistereddevice", "asked_again", "repeated_requests"),
                migrations.RenameField("preregistereddevice", "asked_again_at", "repeated_request_at"),
                migrations.RenameField("preregistereddevice", "asked_again_from", "repeated_request_from"),
                migrations.AlterField(
                    model_name="preregistereddevice",
                    name="repeated_requests",
                    field=models.PositiveIntegerField(
                        db_column="asked_again", default=0, editable=False, verbose_name="asked for again"
                    ),
                ),
                migrations.AlterField(
                    model_name="preregistereddevice",
                    name="repeated_request_at",
                    field=models.DateTimeField(
                        db_column="asked_again_at", editable=False, null=True, verbose_name="last asked for again"
                    ),
                ),
                migrations.AlterField(
                    model_name="preregistereddevice",
                    name="repeated_request_from",
                    field=models.CharField(
                        blank=True, db_column="asked_again_from", editable=False, max_length=45, verbose_name="from"
                    ),
                ),
                migrations.AlterField(
                    model_name="preregistereddevice",
                    name="tenant",
                    field=models.ForeignKey(
                        blank=True,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="preregistered_devices",
                        to="tenants.tenant",
                        verbose_name="claimed by",
                    ),
                ),
            ]
        ),
        migrations.RunPython(forwards, backwards),
    ]
