from django.apps import AppConfig


class ManagementConfig(AppConfig):
    name = "management"

    def ready(self) -> None:
        """Register the system checks."""
        from management import lock_table  # noqa: F401 (its checks register themselves)
