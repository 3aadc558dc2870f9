"""Every address. Paths stand at the root and have no trailing slash."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from payflow import views

urlpatterns = [
    path("", views.Root.as_view(), name="root"),
    path("health", views.Health.as_view(), name="health"),
    path("health/live", views.Live.as_view(), name="live"),
    path("health/ready", views.Ready.as_view(), name="ready"),
    path("metrics", views.Metrics.as_view(), name="metrics"),
    path("openapi.json", views.OpenApi.as_view(), name="openapi"),
    path("docs", views.docs, name="docs"),
    path("redoc", views.redoc, name="redoc"),
    path("admin/", admin.site.urls),
    path("auth/", include("accounts.urls")),
    path("wallets", include("wallets.urls")),
    path("transactions", include("transfers.urls")),
    path("webhooks", include("webhooks.urls")),
    path("ledger/", include("ledger.urls")),
]
