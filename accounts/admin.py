"""Users and their API keys for staff.

Whether a user is active changes only through the services, which freeze wallets first. A key's secret is on
the one page that answers its making: not in a message, which would travel in a cookie, nor in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from accounts import api_keys, selectors, services, sessions
from accounts.models import API_KEY_PREFIX, EMAIL_LENGTH_MAX, ApiKey, User
from payflow import clock
from payflow.admin import NewestFirst, StoredRowsAdmin, link, search_link
from payflow.api.scopes import Scope
from payflow.errors import PermissionRefused, Refused, Transient

ACTION_ROWS_MAX = 100
PRIVILEGES = ("is_staff", "is_superuser", "groups", "user_permissions")


class UserAddForm(AdminUserCreationForm):
    """A new user's email, name and password."""

    class Meta:
        model = User
        fields = ("email", "name")


class UserEditForm(UserChangeForm):
    """What staff may change."""

    class Meta:
        model = User
        fields = "__all__"
        field_classes: dict[str, type] = {}


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    """Users, newest first. They are deactivated, never deleted: the ledger names them."""

    form = UserEditForm
    add_form = UserAddForm
    ordering = ("-id",)
    list_display = ("email", "name", "is_active", "is_staff", "created_at")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "name")
    list_per_page = 50
    list_max_show_all = 0
    show_facets = admin.ShowFacets.NEVER
    readonly_fields = ("id", "is_active", "created_at", "last_login", "money")
    actions = ("deactivate", "reactivate")
    fieldsets = (
        (None, {"fields": ("id", "email", "name", "phone", "password")}),
        ("E-mails", {"fields": ("email_notifications", "locale")}),
        ("Status", {"fields": ("is_active", "money", "created_at", "last_login")}),
        ("Privileges", {"fields": PRIVILEGES}),
    )
    add_fieldsets = ((None, {"fields": ("email", "name", "usable_password", "password1", "password2")}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Only a superuser hands out privileges."""
        return self.readonly_fields if request.user.is_superuser else (*self.readonly_fields, *PRIVILEGES)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a superuser changes a superuser."""
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or not obj.is_superuser or request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes users."""
        return False

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Write what was changed and nothing else, so that no form undoes a deactivation made meanwhile."""
        if not change:
            obj.save(force_insert=True)
        elif fields := {field.name for field in User._meta.concrete_fields} & set(form.changed_data):
            obj.save(update_fields=fields)
        if change and "is_staff" in form.changed_data:
            self._end_sessions_of(request, obj)

    def _end_sessions_of(self, request: HttpRequest, user: User) -> None:
        """End the sessions of who is or was staff: their tokens say what they were."""
        try:
            sessions.close_all_families(user_id=str(user.pk))
        except Transient:
            left = "Redis is not answering: for up to 15 minutes their tokens say what they were."
            self.message_user(request, left, messages.ERROR)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        """Set a user's password. Their sessions end first, or the password stays; and once more afterwards,
        for who signed in with the old one in between."""
        user = self.get_object(request, unquote(id)) if request.method == "POST" else None
        if user is None or not self.has_change_permission(request, user):
            return super().user_change_password(request, id, form_url)
        try:
            sessions.close_all_families(user_id=str(user.pk))
        except Transient as error:
            self.message_user(request, error.detail, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        response = super().user_change_password(request, id, form_url)
        services.close_sessions_again(user_id=str(user.pk))
        return response

    @admin.display(description="Wallets, transactions, API keys")
    def money(self, user: User) -> SafeString:
        """Where the user's money is, and which machines may move it."""
        pages = (
            ("wallets_walletrow", "Wallets"),
            ("transfers_transactionrow", "Transactions"),
            ("accounts_apikey", "API keys"),
        )
        return format_html_join(" ", "{}", ((search_link(page, user.pk, text),) for page, text in pages))

    @admin.action(description="Deactivate: freeze the wallets, end the sessions", permissions=["change"])
    def deactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Deactivate the chosen users, but not the one who asks."""
        self._for_each(request, queryset.exclude(pk=request.user.pk), services.deactivate_user, "deactivated")

    @admin.action(description="Reactivate: unfreeze the wallets", permissions=["change"])
    def reactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Reactivate the chosen users."""
        self._for_each(request, queryset, services.reactivate_user, "reactivated")

    def _for_each(
        self, request: HttpRequest, queryset: QuerySet[User], change: Callable[..., None], done: str
    ) -> None:
        """Change up to ACTION_ROWS_MAX users; stop where a service does not answer: it can be repeated."""
        users = [u for u in queryset[:ACTION_ROWS_MAX] if self.has_change_permission(request, u)]
        changed = 0
        for user in users:
            try:
                change(user_id=str(user.pk))
            except Refused as error:
                self.message_user(request, f"{error.detail} ({user.email})", messages.ERROR)
                continue
            except Transient as error:
                self.message_user(request, error.detail, messages.ERROR)
                break
            self.log_change(request, user, done.capitalize() + ".")
            changed += 1
        level = messages.SUCCESS if changed else messages.WARNING
        self.message_user(request, f"{changed} of {queryset.count()} users {done}.", level)


class ApiKeyAddForm(forms.ModelForm):
    """A key that staff make for a user."""

    email = forms.CharField(label="Owner's email", max_length=EMAIL_LENGTH_MAX)
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, scope.value) for scope in Scope],
        widget=forms.CheckboxSelectMultiple,
        help_text="With deposits:write the key may create money, also where deposits are not open.",
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


class NewestFirstWithActions(NewestFirst):
    """The bounded list, whose rows staff may choose."""

    def get_results(self, request: HttpRequest) -> None:
        """Set what the list's template reads."""
        super().get_results(request)
        self.show_admin_actions = True


@admin.register(ApiKey)
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

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Nothing of a key changes."""
        return self.shown if obj else ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the bounded list with actions."""
        return NewestFirstWithActions

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
        """Make the key. Only a superuser makes one to a superuser's account."""
        wanted = form.cleaned_data
        if wanted["email"].is_superuser and not request.user.is_superuser:
            raise PermissionRefused("Only a superuser makes API keys for a superuser.")
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
        for key in queryset[:ACTION_ROWS_MAX]:
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
