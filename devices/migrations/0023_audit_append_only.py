from django.db import migrations

# The owner of a table can take rights from itself. It can give them back: that is a statement of its own, which no
# injected condition or forgotten filter makes.
_TAKE = """
REVOKE UPDATE, DELETE, TRUNCATE ON devices_auditentry FROM CURRENT_USER;
GRANT UPDATE (position, previous_hash, hash) ON devices_auditentry TO CURRENT_USER;
"""
_RETURN = "GRANT UPDATE, DELETE, TRUNCATE ON devices_auditentry TO CURRENT_USER;"


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0022_audit_chain"),
    ]

    operations = [migrations.RunSQL(_TAKE, _RETURN)]
