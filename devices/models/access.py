"""API keys, broker passwords, and audit entries."""

import datetime
import hashlib
import secrets
from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from devices.domain import scopes
from devices.domain.networks import validate_networks
from tenants.models.base import CountedModel

from .inventory import Device

# The prefix of every API key, by which a broker distinguishes apps from devices.
API_KEY_PREFIX = "gwj_"
# A key's first characters, which are kept and shown.
API_KEY_PREFIX_LENGTH = len(API_KEY_PREFIX) + 10
# last_used_at is informative: once a minute is enough, and saves a write per request.
_TOUCH_AFTER = datetime.timedelta(minutes=1)


class ApiKey(CountedModel):
    """An API key. Only its SHA-256 is stored, in the tenant's schema, so that it is valid in this tenant only."""

    quota = "max_api_keys"

    class Scope(models.TextChoices):
        READ = "read", _("read")
        WRITE = "write", _("read and write")
        ADMIN = "admin", _("read, write, and export everything")
        CUSTOM = "custom", _("the listed scopes")

    name = models.CharField(_("name"), max_length=120)
    description = models.CharField(_("description"), max_length=500, blank=True)
    prefix = models.CharField(_("prefix"), max_length=24, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    scope = models.CharField(_("scope"), max_length=8, choices=Scope.choices, default=Scope.READ)
    # Of the scope `custom`.
    scopes = ArrayField(
        models.CharField(max_length=40), verbose_name=_("scopes"), default=list, db_default=[], blank=True
    )
    addresses = ArrayField(
        models.CharField(max_length=43),
        verbose_name=_("addresses"),
        default=list,
        db_default=[],
        blank=True,
        validators=[validate_networks],
        help_text=_("Networks from which the key can be used, separated by commas. Empty: from everywhere."),
    )
    # The devices that the key can see, as `devices.domain.selector` reads it; empty: all.
    selector = models.JSONField(_("device selector"), default=dict, db_default={}, blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    created_by_id = models.BigIntegerField(null=True, editable=False)
    created_by_label = models.CharField(_("created by"), max_length=150, blank=True, editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True, editable=False)
    # The key that replaces it; until its end both are valid.
    successor = models.OneToOneField(
        "self", on_delete=models.SET_NULL, null=True, editable=False, related_name="predecessor"
    )
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def is_authenticated(self) -> bool:
        """Return True, as Django REST framework expects of a request's user."""
        return True

    @classmethod
    def counted(cls, schema: str) -> QuerySet["ApiKey"]:
        """Return the valid keys: a revoked or expired one makes room."""
        return cls.objects.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)

    @classmethod
    def of_apps(cls) -> QuerySet["ApiKey"]:
        """Return the keys that have an account at the broker, which knows no selectors and no addresses."""
        return cls.objects.filter(revoked_at=None, selector={}, addresses=[])

    @property
    def granted(self) -> frozenset[str]:
        """Return the key's scopes, as `devices.domain.scopes` lists them."""
        return scopes.granted(self.scope, self.scopes)

    @property
    def ends_soon(self) -> bool:
        """Return whether a valid key without a successor ends within `API_KEY_WARNING_DAYS`."""
        if self.expires_at is None or self.successor_id is not None or not self.is_valid():
            return False
        return self.expires_at - timezone.now() <= datetime.timedelta(days=settings.API_KEY_WARNING_DAYS)

    def is_valid(self) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())

    @classmethod
    def find(cls, text: str) -> "ApiKey | None":
        """Return the current tenant's valid key with that text, and note that it was used; None without one."""
        key = cls.objects.filter(prefix=text[:API_KEY_PREFIX_LENGTH]).first()
        if key is None or not secrets.compare_digest(key.digest, cls.digest_of(text)) or not key.is_valid():
            return None
        now = timezone.now()
        if key.last_used_at is None or now - key.last_used_at > _TOUCH_AFTER:
            cls.objects.filter(pk=key.pk).update(last_used_at=now)
        return key

    @staticmethod
    def digest_of(text: str) -> str:
        """Return the SHA-256 of a key's text in hexadecimal digits."""
        return hashlib.sha256(text.encode()).hexdigest()


class BrokerPassword(models.Model):
    """The hash of a device's broker password, for brokers that authenticate through the platform.

    The password itself is in Vault. It is 192 random bits, which cannot be guessed: one round of a keyed hash suffices,
    as for API keys, and thousands of reconnecting devices are checked quickly. A password made up by a person, for
    example of an old server's device, is hashed slowly.
    """

    device = models.OneToOneField(Device, on_delete=models.CASCADE, primary_key=True, related_name="broker_password")
    salt = models.BinaryField(max_length=16)
    digest = models.BinaryField(max_length=32)
    # Of PBKDF2, for a password that came with its device and may be guessable; 0: the keyed hash.
    rounds = models.PositiveIntegerField(default=0, db_default=0)

    class Meta:
        verbose_name = _("password at the broker")
        verbose_name_plural = _("passwords at the broker")

    def __str__(self) -> str:
        return f"{self.device}"


# Actions of audit entries. Stored in these words, and shown in the reader's language.
ACTIONS: dict[str, Promise] = {
    "add": _("add"),
    "change": _("change"),
    "delete": _("delete"),
    "register": _("register"),
    "remove": _("remove"),
    "activate": _("activate"),
    "deactivate": _("deactivate"),
    "issue": _("issue"),
    "revoke": _("revoke"),
    "rotate key": _("rotate key"),
    "rotate API key": _("rotate API key"),
    "revoke key": _("revoke key"),
    "allow version 1": _("allow version 1"),
    "cpu serial mismatch": _("message from another board"),
    "values left out": _("values left out"),
    "adopt key": _("adopt key"),
    "import": _("import"),
    "start rotation": _("start rotation"),
    "send key": _("send key"),
    "hand over key": _("hand over key"),
    "extend rotation": _("extend rotation"),
    "end old keys": _("end old keys"),
    "destroy old keys": _("destroy old keys"),
    "roll back rotation": _("roll back rotation"),
    "rolled back": _("rolled back"),
    "replay": _("replay"),
    "cancel replay": _("cancel replay"),
    "hand over credentials": _("hand over credentials"),
    "acknowledge": _("acknowledge"),
    "shelve": _("shelve"),
    "end": _("end"),
    "claim": _("claim"),
    "release": _("release"),
    "fetch credentials": _("fetch credentials"),
    "credentials asked for again": _("repeated credential request"),
    "allow new fetch": _("reset credentials"),
    "export everything": _("export everything"),
}


class AuditEntry(models.Model):
    """An action of a user in this tenant.

    The user is recorded by id and label, since users are in the public schema.
    """

    at = models.DateTimeField(_("time"), auto_now_add=True)
    user_id = models.BigIntegerField(null=True)
    user_label = models.CharField(_("user"), max_length=150)
    key_id = models.BigIntegerField(null=True)
    # Of the request; empty for what the platform and its workers do.
    request_id = models.CharField(_("request"), max_length=64, blank=True, db_default="")
    address = models.CharField(_("address"), max_length=45, blank=True, db_default="")
    action = models.CharField(_("action"), max_length=40)
    object_type = models.CharField(_("object type"), max_length=80)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(_("object"), max_length=200)
    detail = models.TextField(_("detail"), blank=True)
    # {member: {"before": …, "after": …}}, without secrets; null for actions such as an export.
    changes = models.JSONField(_("changes"), null=True, blank=True)
    # The entry's place in the chain, and the hashes; `devices.services.audit_chain` sets them after the transaction.
    position = models.BigIntegerField(_("position"), null=True)
    previous_hash = models.CharField(_("previous hash"), max_length=64, blank=True, db_default="")
    hash = models.CharField(_("hash"), max_length=64, blank=True, db_default="")

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # Two processes must not chain two entries to the same one; `audit_chain` reads in this order.
            models.UniqueConstraint(fields=["position"], name="audit_position_once"),
        ]
        indexes: ClassVar = [
            # Entries that must be chained.
            models.Index(fields=["id"], condition=Q(position=None), name="audit_unchained"),
            # Pages of the API, and their range of time.
            models.Index(fields=["at", "id"], name="audit_in_order"),
            # The history page of one object.
            models.Index(fields=["object_type", "object_id"], name="audit_of_object"),
        ]
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")

    def __str__(self) -> str:
        return f"{self.user_label}: {self.action} {self.object_label}"

    @property
    def done(self) -> str | Promise:
        """Return the action in the reader's language."""
        return ACTIONS.get(self.action, self.action)
