"""What people do at the same moment: one contract of the use-cases, in memory, on SQLite and on PostgreSQL."""

import threading
from dataclasses import replace

import pytest
from test_accounts_port import OURS, database, record  # noqa: F401 - a fixture

from auditor.contracts.people import Role, Scope, SignIn, UserChange
from auditor.errors import Conflict, NotSignedIn
from auditor.service import people
from auditor.service.people import LOCK_AFTER, LOCKED_FOR, Identity, People, hash_password
from auditor.service.team import TeamAffairs
from auditor.testing.ports import SetClock

PASSWORD, RESET = "correct horse battery", "set by the admin"


def at_once(*actions):
    """Run them in threads that start together; what they raise is given back."""
    barrier, raised = threading.Barrier(len(actions)), []

    def run(action):
        barrier.wait()
        try:
            action()
        except (Conflict, NotSignedIn) as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("change", [{"role": Role.REVIEWER}, {"disabled": True}])
def test_two_admins_who_demote_each_other_leave_one(database, change):  # noqa: F811
    admins = [replace(record("users", number), role=Role.ADMIN, disabled=False) for number in (1, 2)]
    with database() as tx:
        team = tx.teams.get(OURS)
        for admin in admins:
            tx.users.add(admin)

    def demotes(who, whom):
        me = Identity(who, team, frozenset(Scope), None, who.id)
        affairs = TeamAffairs(database=database, clock=SetClock(), me=me)
        return lambda: affairs.change_user(whom.id, UserChange(**change))

    for _ in range(5):
        raised = at_once(demotes(*admins), demotes(*reversed(admins)))
        assert [type(error) for error in raised] == [Conflict]
        with database() as tx:
            assert len([user for user in tx.users.page(9, role=Role.ADMIN) if not user.disabled]) == 1
            for admin in admins:
                tx.users.change(admin.id, role=Role.ADMIN, disabled=False)


@pytest.fixture
def ann(database):  # noqa: F811
    """Someone with a password."""
    known = {"failures": 0, "locked_until": None, "disabled": False, "password_hash": hash_password(PASSWORD)}
    ann = replace(record("users", 1), **known)
    with database() as tx:
        tx.users.add(ann)
        return SignIn(team=tx.teams.get(OURS).name, name=ann.name, password=PASSWORD), ann.id


def test_wrong_passwords_at_the_same_moment_are_all_counted(database, ann):  # noqa: F811
    (right, user_id), clock = ann, SetClock()
    everyone = People(database=database, clock=clock)
    wrong = [lambda: everyone.sign_in(right.model_copy(update={"password": "wrong"}))] * (2 * LOCK_AFTER + 1)
    assert len(at_once(*wrong)) == len(wrong)
    with database() as tx:
        assert tx.users.get(user_id).locked_until == clock.now() + LOCKED_FOR
        assert len([line for line in tx.trail.page(99) if line.what == "session.refused"]) == LOCK_AFTER
    with pytest.raises(NotSignedIn):
        everyone.sign_in(right)


def test_a_right_password_that_was_looked_at_beside_too_many_wrong_ones_is_refused(database, ann, monkeypatch):  # noqa: F811
    (right, user_id), everyone = ann, People(database=database, clock=SetClock())
    verify = people._verify

    def guess_meanwhile(password, stored):
        monkeypatch.undo()
        for _ in range(LOCK_AFTER):
            with pytest.raises(NotSignedIn):
                everyone.sign_in(right.model_copy(update={"password": "wrong"}))
        return verify(password, stored)

    monkeypatch.setattr(people, "_verify", guess_meanwhile)
    with pytest.raises(NotSignedIn):
        everyone.sign_in(right)
    with database() as tx:
        assert tx.users.get(user_id).locked_until is not None


@pytest.fixture
def reset_meanwhile(database, ann, monkeypatch):  # noqa: F811
    """An admin sets another password just after the one before was found right."""
    admin, checked = replace(record("users", 2), role=Role.ADMIN, disabled=False), People.is_password_of
    with database() as tx:
        tx.users.add(admin)
        me = Identity(admin, tx.teams.get(OURS), frozenset(Scope), None, admin.id)
    affairs = TeamAffairs(database=database, clock=SetClock(), me=me)

    def check(everyone, user, password):
        monkeypatch.undo()
        right = checked(everyone, user, password)
        affairs.change_user(ann[1], UserChange(password=RESET))
        return right

    monkeypatch.setattr(People, "is_password_of", check)


@pytest.mark.usefixtures("reset_meanwhile")
def test_a_password_that_an_admin_sets_is_not_overwritten_by_whoever_knows_the_one_before(database, ann):  # noqa: F811
    right, user_id = ann
    with database() as tx:
        me = Identity(tx.users.get(user_id), tx.teams.get(OURS), frozenset(Scope), None, user_id)
    with pytest.raises(Conflict, match="changed just now"):
        TeamAffairs(database=database, clock=SetClock(), me=me).change_own_password("taken over", PASSWORD)
    everyone = People(database=database, clock=SetClock())
    assert everyone.sign_in(right.model_copy(update={"password": RESET}))


@pytest.mark.usefixtures("reset_meanwhile")
def test_no_session_outlives_a_password_that_an_admin_replaces_while_it_is_used(database, ann):  # noqa: F811
    right, user_id = ann
    with pytest.raises(NotSignedIn):
        People(database=database, clock=SetClock()).sign_in(right)
    with database() as tx:
        assert tx.sessions.find(user_id=user_id) is None
