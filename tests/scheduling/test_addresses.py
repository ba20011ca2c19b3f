"""Addresses of runs and items that do not exist are not found, whatever they are."""

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db

OF_RUNS = ["file", "replay", "cancel", "again"]
OF_ITEMS = ["run", "backfill", "watermark"]
ADDRESSES = [f"schedulinghistoryitem/{{}}/{name}/" for name in OF_RUNS]
ADDRESSES += [f"schedulingitem/{{}}/{name}/" for name in OF_ITEMS]


@pytest.mark.parametrize("key", ["0", "9" * 30, "nonsense", "1/2", "_3f"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_they_are_not_found(admin_client: Client, address: str, key: str) -> None:
    response = admin_client.post(f"/admin/scheduling/{address.format(key)}", follow=True)
    assert response.status_code in (200, 404, 405)
    if response.status_code == 200:  # Django's own pages say it on the home page.
        assert "doesn’t exist" in response.content.decode()
