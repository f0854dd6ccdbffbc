"""Signing in through a provider in a real browser, whose rules on cookies, forms and the content policy hold."""

import pytest
from api_house import PASSWORD
from openid_house import EMAIL, installation, invite

from auditor.contracts.people import Role
from auditor.service.records import LOCAL_TEAM

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def house(tmp_path_factory, running):
    """Its address is `127.0.0.1`, the provider's `localhost`: two sites."""
    with installation(tmp_path_factory.mktemp("home"), running) as house:
        yield house


@pytest.fixture(params=[True, False], ids=["JavaScript", "no JavaScript"])
def window(request, chromium, house, provider):
    """A window, which must not complain of what a policy forbids."""
    context = chromium.new_context(base_url=house.url, java_script_enabled=request.param)
    page, complaints = context.new_page(), []
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    yield page
    context.close()
    assert [text for text in complaints if "status of 401" not in text] == []  # the page of a refusal


def test_somebody_goes_to_the_provider_and_comes_back_signed_in(house, window):
    from playwright.sync_api import expect

    invite(house, {"email": EMAIL})
    window.goto("/models")
    window.get_by_role("button", name="Sign in with Acme").click()
    window.wait_for_url("**/models")
    expect(window.get_by_role("link", name=house.users[LOCAL_TEAM, Role.ADMIN].name)).to_be_visible()
    window.get_by_role("button", name="Sign out").click()
    expect(window.get_by_role("status")).to_have_text("You are signed out.")
    window.goto("/models")
    expect(window.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_whoever_is_refused_can_use_a_password_on_the_same_page(house, provider, window):
    from playwright.sync_api import expect

    provider.person = {"sub": "stranger"}
    window.goto("/sign-in?next=/policies")
    window.get_by_role("button", name="Sign in with Acme").click()
    expect(window.get_by_role("alert")).to_contain_text("nobody in the team 'local' may sign in with the subject")
    window.get_by_label("Name").fill(house.users[LOCAL_TEAM, Role.REVIEWER].name)
    window.get_by_label("Password").fill(PASSWORD)
    window.get_by_role("button", name="Sign in", exact=True).click()
    window.wait_for_url("**/policies")
