"""API keys for staff: who makes one sees its secret once.

The secret is on the one page that answers: not in a message, which would travel in a cookie, nor in the log.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from accounts import api_keys, selectors
from accounts.models import API_KEY_PREFIX, ApiKey, User
from payflow import clock, text
from payflow.admin import StoredRowsAdmin, link
from payflow.api.scopes import Scope
from payflow.errors import PermissionRefused, Refused, Transient

REVOKED_AT_ONCE_MAX = 100


class ApiKeyAddForm(forms.ModelForm):
    """A key that staff make for a user."""

    email = forms.CharField(label="Owner's email", max_length=text.EMAIL_LENGTH_MAX)
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, scope.value) for scope in Scope],
        widget=forms.CheckboxSelectMultiple,
        help_text="A key with deposits:write may create money: granting it needs wallets.deposit.",
    )
    days = forms.IntegerField(
        label="Expires after (days)",
        min_value=1,
        max_value=settings.API_KEY_DAYS_MAX,
        initial=settings.API_KEY_DAYS_DEFAULT,
    )

    class Meta:
        model = ApiKey
        fields = ("name", "scopes")

    def clean_email(self) -> User:
        """Return the user with this email."""
        owner = selectors.find_user_by_email(email=self.cleaned_data["email"])
        if owner is None:
            raise forms.ValidationError("Nobody has this email.")
        return owner


class StatusFilter(admin.SimpleListFilter):
    """What has become of a key."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("living", "living"), ("expired", "expired"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        """Return the keys of the chosen status."""
        now = clock.now()
        if self.value() == "living":
            return queryset.filter(revoked_at=None, expires_at__gt=now)
        if self.value() == "expired":
            return queryset.filter(revoked_at=None, expires_at__lte=now)
        return queryset.filter(revoked_at__isnull=False) if self.value() == "revoked" else queryset


class ApiKeyAdmin(StoredRowsAdmin):
    """API keys, newest first. Staff make and revoke them; nobody changes one, or sees its secret again."""

    form = ApiKeyAddForm
    list_display = (
        "name", "owner_email", "status", "scope_names", "expires_at", "last_used_at",
    )  # fmt: skip
    list_filter = (StatusFilter,)
    search_fields = ("id",)
    search_help_text = "The beginning of a key (pk_...), its id, or its owner's email or id, exactly."
    actions = ("revoke",)
    shown = (
        "id", "prefix", "name", "owner_email", "scope_names", "status", "created_at", "created_by_email",
        "expires_at", "last_used_at", "revoked_at",
    )  # fmt: skip

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Return what is asked for a new key, or shown of one that there is."""
        return self.shown if obj else ("email", "name", "scopes", "days")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ApiKey], search_term: str
    ) -> tuple[QuerySet[ApiKey], bool]:
        """Search; warn who has put a secret into the address, which browsers and proxies write down."""
        if api_keys.is_whole(search_term.strip()):
            self.message_user(
                request,
                "That is a whole key: it stands in logs now, so revoke it. Paste only its beginning.",
                messages.ERROR,
            )
            return queryset.filter(pk=""), False
        return super().get_search_results(request, queryset, search_term)

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        if term.startswith((api_keys.BEARER_PREFIX, API_KEY_PREFIX)):
            return Q(pk=API_KEY_PREFIX + term.split("_")[1])
        owner = selectors.find_user_by_email(email=term) or selectors.find_user(user_id=term)
        return Q(owner_id=owner.pk) if owner else Q(pk=term)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever was given the right to."""
        return admin.ModelAdmin.has_add_permission(self, request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Revoking is all the change there is, and it is an action of the list."""
        return obj is None and admin.ModelAdmin.has_change_permission(self, request)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Make a key, or say why not."""
        try:
            return super().add_view(request, form_url, extra_context)
        except (Refused, Transient) as error:
            self.message_user(request, error.detail, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """Make the key. Only a superuser makes one to another staff account."""
        wanted = form.cleaned_data
        is_own = wanted["email"].pk == request.user.pk
        if selectors.is_privileged(wanted["email"]) and not (is_own or request.user.is_superuser):
            raise PermissionRefused("Only a superuser makes API keys for another staff account.")
        request.minted = api_keys.mint_key(
            owner=wanted["email"],
            name=wanted["name"],
            scopes=wanted["scopes"],
            expires_at=clock.after(clock.now(), wanted["days"] * 86_400),
            created_by=request.user,
        )
        obj.id = request.minted.key.id

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        """Show the key, here and nowhere else."""
        context = {
            **self.admin_site.each_context(request),
            "title": "API key made",
            "opts": self.opts,
            "minted": request.minted,
        }
        return TemplateResponse(request, "admin/accounts/apikey/minted.html", context)

    @admin.action(description="Revoke: the next request with it is refused", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """Revoke the chosen keys; stop where the database does not answer: it can be repeated."""
        revoked = 0
        for key in queryset[:REVOKED_AT_ONCE_MAX]:
            try:
                api_keys.revoke_key(user_id=str(key.owner_id), key_id=key.id)
            except Transient as error:
                self.message_user(request, error.detail, messages.ERROR)
                break
            self.log_change(request, key, "Revoked.")
            revoked += 1
        level = messages.SUCCESS if revoked else messages.WARNING
        self.message_user(request, f"{revoked} API keys revoked.", level)

    @admin.display(description="Owner")
    def owner_email(self, key: ApiKey) -> SafeString:
        """Whose account it opens."""
        return link("accounts_user", key.owner_id, key.owner.email)

    @admin.display(description="Made by")
    def created_by_email(self, key: ApiKey) -> SafeString:
        """The owner, or the member of staff."""
        return link("accounts_user", key.created_by_id, key.created_by.email)

    @admin.display(description="Scopes")
    def scope_names(self, key: ApiKey) -> str:
        """What it may do."""
        return ", ".join(key.scopes)

    @admin.display
    def status(self, key: ApiKey) -> str:
        """What has become of it."""
        if key.revoked_at:
            return "revoked"
        return "living" if key.expires_at > clock.now() else "expired"
