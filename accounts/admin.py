"""Users for staff. Whether one is active changes only through the services, which freeze wallets first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.forms import AdminAuthenticationForm, AdminPasswordChangeForm
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from accounts import services, sessions
from accounts.key_admin import ApiKeyAdmin
from accounts.models import MAY_SET_PASSWORDS, ApiKey, User
from accounts.selectors import is_privileged
from payflow.admin import AsStoredFallback, search_link
from payflow.errors import Refused, Transient

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


class StaffLoginForm(AdminAuthenticationForm):
    """Takes the email as it is typed; Django's own field rewrites letters that look alike (NFKC)."""

    username = forms.CharField(widget=forms.TextInput(attrs={"autofocus": True}))


class OwnPasswordForm(AdminPasswordChangeForm):
    """A new password for one's own account. All sessions of the API end first, or the password stays."""

    def clean(self) -> dict[str, Any]:
        """End the sessions once nothing else is wrong."""
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            try:
                sessions.close_all_families(user_id=str(self.user.pk))
            except Transient as error:
                raise forms.ValidationError(error.detail) from error
        return cleaned

    def save(self, commit: bool = True) -> User:
        """Store the password, and end sessions that were opened with the old one meanwhile."""
        user: User = super().save(commit)
        services.close_sessions_again(user_id=str(user.pk))
        return user


def change_own_password(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
    """The admin's page for one's own password, with a form that ends sessions."""
    request.current_app = admin.site.name
    view = PasswordChangeView.as_view(
        form_class=OwnPasswordForm,
        success_url=reverse("admin:password_change_done"),
        extra_context={**admin.site.each_context(request), **(extra_context or {})},
    )
    response: HttpResponse = view(request)
    return response


admin.site.login_form = StaffLoginForm
admin.site.password_change = change_own_password
admin.site.register(ApiKey, ApiKeyAdmin)
admin.site.unregister(Group)


@admin.register(Group)
class RoleAdmin(AsStoredFallback, GroupAdmin):
    """Groups hand out permissions: only superusers change them. Otherwise staff could raise themselves."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Say whether this is a superuser."""
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this is a superuser."""
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this is a superuser."""
        return request.user.is_superuser


@admin.register(User)
class UserAdmin(AsStoredFallback, DjangoUserAdmin):
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
        """Only a superuser hands out privileges. An email is what signs in, so it changes like a password."""
        if request.user.is_superuser:
            return self.readonly_fields
        keeps_email = obj is not None and not request.user.has_perm(MAY_SET_PASSWORDS)
        return (*self.readonly_fields, *PRIVILEGES, *(["email"] if keeps_email else []))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a superuser changes a staff account; one's own password: /admin/password_change/."""
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or not is_privileged(obj) or request.user.is_superuser)

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
        if not request.user.has_perm(MAY_SET_PASSWORDS):
            raise PermissionDenied
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
