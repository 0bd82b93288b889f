"""A tenant's addresses, by host name or under /t/{slug}/."""

urlpatterns: list = []
