from django.db import migrations, models

# Of each tenant the administrator who was added first, of those whose account is active.
_FIRST_ADMINISTRATORS = """
UPDATE tenants_membership SET role = 'owner' WHERE id IN (
    SELECT DISTINCT ON (m.tenant_id) m.id FROM tenants_membership AS m JOIN tenants_user AS u ON u.id = m.user_id
    WHERE m.role = 'admin' ORDER BY m.tenant_id, u.is_active DESC, m.id
)
"""


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0018_device_selectors"),
    ]

    operations = [
        migrations.AlterField(
            model_name="membership",
            name="role",
            field=models.CharField(
                choices=[
                    ("viewer", "viewer: sees everything, changes nothing"),
                    ("operator", "operator: registers and changes devices"),
                    ("admin", "administrator: also metadata, keys and people"),
                    ("owner", "owner: also names owners"),
                ],
                default="viewer",
                max_length=10,
                verbose_name="role",
            ),
        ),
        migrations.RunSQL(_FIRST_ADMINISTRATORS, "UPDATE tenants_membership SET role = 'admin' WHERE role = 'owner'"),
    ]
