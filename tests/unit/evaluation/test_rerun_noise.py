"""What an audit shows more of than its baseline: seen where it is there, and seldom where it is mere chance."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.contracts.access import Access
from auditor.contracts.policy import Verdict
from auditor.evaluation.intervals import benjamini_hochberg
from auditor.evaluation.rerun_noise import ALIKE, LEVEL, exposed_classes, risen_attacks, too_few_pictures
from auditor.proportions import binomial_tail
from auditor.testing.reports import LIFTS, sample_outcome, sample_report

N_CLASSES = 60


def audit(counts, samples=5, *, keys=None):
    """A report of (A, G) accepted pictures of `samples` each."""
    attacks = []
    for key, row in zip(keys or [f"a{nth}" for nth in range(len(counts))], counts, strict=True):
        outcome = sample_outcome(key, lift=LIFTS[Verdict.FAIL], n_classes=len(row), samples=samples)
        rows = tuple(
            cell.model_copy(update={"both": int(k) / samples}) for cell, k in zip(outcome.per_class, row, strict=True)
        )
        named = np.flatnonzero(benjamini_hochberg([binomial_tail(int(k), samples, 0.51) for k in row]))
        attacks.append(outcome.model_copy(update={"per_class": rows, "named_classes": tuple(named.tolist())}))
    return sample_report(attacks=tuple(attacks))


def drawn(rates, samples, alike, rng):
    """One run: pictures of one class and attack share their luck as far as `alike` says."""
    spread = 1 / alike - 1 if alike else np.inf
    own = rng.beta(rates * spread, (1 - rates) * spread) if alike else rates
    return rng.binomial(samples, own)


def leaking(n_attacks, rng):
    """(A, G) rates of a model that leaks some people, some hardly, and some now and then."""
    people = rng.beta(0.5, 1, N_CLASSES)
    return np.clip(people + rng.normal(0, 0.15, (n_attacks, N_CLASSES)), 0.01, 0.99)


class TestMereChance:
    """One model, audited twice with other draws."""

    @pytest.mark.parametrize(("n_attacks", "samples"), [(4, 3), (8, 5), (1, 8)])
    @pytest.mark.parametrize("alike", [0.0, ALIKE])
    def test_at_most_one_comparison_in_twenty_rises(self, n_attacks, samples, alike):
        """Counted over 150 pairs of audits; more than 17 would be met by one in a thousand tests at 5 %."""
        rng, alarms = np.random.default_rng(n_attacks), 0
        for _ in range(150):
            rates = leaking(n_attacks, rng)
            before, after = (audit(drawn(rates, samples, alike, rng), samples) for _ in range(2))
            alarms += bool(exposed_classes(before, after) or risen_attacks(before, after))
        assert binomial_tail(alarms, 150, 2 * LEVEL) > 0.001

    def test_newly_named_classes_are_no_rise_by_themselves(self):
        """Nine of ten pictures, then all ten: named by luck, and found before."""
        before = np.full((4, N_CLASSES), 8)
        after = before.copy()
        after[:, :5] = 10
        then, now = audit(before, 10), audit(after, 10)
        assert set(now.attacks[0].named_classes) > set(then.attacks[0].named_classes)
        assert exposed_classes(then, now) == ()


class TestOtherPeople:
    def test_the_same_mean_over_other_people(self):
        """Thirty people leak, and then the thirty others: no mean moves, and everyone new is named."""
        before = np.zeros((4, N_CLASSES), int)
        before[:, :30] = 4
        then, now = audit(before), audit(before[:, ::-1])
        assert risen_attacks(then, now) == ()
        exposed = exposed_classes(then, now)
        assert {found.label for found in exposed} == set(range(30, 60))
        assert {(found.found_before, found.made_before, found.found_now, found.made_now) for found in exposed} == {
            (0, 20, 16, 20)
        }
        assert exposed[0].attacks == ("a0", "a1", "a2", "a3")

    @pytest.mark.parametrize("seed", range(5))
    def test_one_person_among_people_who_leak_now_and_then(self, seed):
        """Eight attacks found her never, and now four times in five; of the others each run finds some."""
        rng = np.random.default_rng(seed)
        rates = leaking(8, rng)
        rates[:, 7] = 0.01
        later = rates.copy()
        later[:, 7] = 0.8
        exposed = exposed_classes(audit(drawn(rates, 5, 0, rng)), audit(drawn(later, 5, 0, rng)))
        assert exposed[0].label == 7

    def test_three_attacks_of_three_pictures_can_show_one_person(self):
        """The quick plan, where nobody else is in doubt."""
        before = np.zeros((3, N_CLASSES), int)
        before[:, 30:] = 3
        after = before.copy()
        after[:, 4] = 3
        (found,) = exposed_classes(audit(before, 3), audit(after, 3))
        assert found.told == "person-004 (0 of 9, now 9 of 9)"

    def test_a_person_known_to_one_attack_is_not_new_to_another(self):
        before = np.zeros((2, N_CLASSES), int)
        before[0, 4] = 8
        assert exposed_classes(audit(before, 8), audit(before[::-1], 8)) == ()

    def test_one_whom_nothing_found_and_who_leaks_for_certain_needs_no_test(self):
        """Alone under one attack, among so many in doubt that no test could tell her from them."""
        before = np.full((1, N_CLASSES), 4)
        before[0, 4] = 0
        after = np.full((1, N_CLASSES), 4)
        after[0, 4] = 8
        then, now = audit(before, 8), audit(after, 8)
        now = now.model_copy(update={"attacks": (now.attacks[0].model_copy(update={"named_classes": (4,)}),)})
        (found,) = exposed_classes(then, now)
        assert found.label == 4

    @pytest.mark.parametrize("n_attacks", [4, 8])
    @pytest.mark.parametrize("found_by_luck", [1, 2, 3])
    def test_a_lucky_picture_under_another_attack_excuses_nobody(self, n_attacks, found_by_luck):
        """One attack now finds her every time; another found her once or a few times before."""
        rng = np.random.default_rng(n_attacks)
        rates = leaking(n_attacks, rng)
        then, now = (drawn(rates, 10, 0.1, rng) for _ in range(2))
        then[:, 50], now[:, 50] = 0, 0
        then[3, 50], now[0, 50] = found_by_luck, 10
        later = audit(now, 10)
        first = later.attacks[0].model_copy(update={"named_classes": tuple({*later.attacks[0].named_classes, 50})})
        later = later.model_copy(update={"attacks": (first, *later.attacks[1:])})
        assert 50 in {found.label for found in exposed_classes(audit(then, 10), later)}

    def test_who_leaks_less_is_not_told(self):
        before = np.full((4, N_CLASSES), 5)
        assert exposed_classes(audit(before), audit(before * 0)) == ()

    def test_other_numbers_of_pictures_and_attacks_of_one_audit_alone(self):
        before = audit(np.zeros((2, N_CLASSES), int), 8, keys=["ppa", "gmi"])
        after = audit(np.full((2, N_CLASSES), 6), 6, keys=["ppa", "vmi"])
        found = exposed_classes(before, after)[0]
        assert (found.made_before, found.made_now, found.attacks) == (8, 6, ("ppa",))

    @pytest.mark.parametrize(
        ("n_attacks", "samples", "few"), [(1, 3, True), (3, 1, True), (1, 5, False), (2, 3, False)]
    )
    def test_too_few_pictures_to_show_anybody(self, n_attacks, samples, few):
        nobody = audit(np.zeros((n_attacks, N_CLASSES), int), samples)
        everybody = audit(np.full((n_attacks, N_CLASSES), samples), samples)
        assert too_few_pictures(nobody, nobody) is few
        assert bool(exposed_classes(nobody, everybody)) is not few


class TestRisenAttacks:
    def test_one_that_rose_among_eight(self):
        rng = np.random.default_rng(0)
        rates = np.full((8, N_CLASSES), 0.2)
        later = rates.copy()
        later[2] = 0.5
        assert risen_attacks(audit(drawn(rates, 5, 0, rng)), audit(drawn(later, 5, 0, rng))) == ("a2",)

    def test_the_worst_attack_is_not_hidden_by_the_number_of_others(self):
        """A rise of its own that a correction over twelve attacks would swallow."""
        before = np.full((12, N_CLASSES), 1)
        before[0] = 3
        after = before.copy()
        after[0, :17] = 4
        after[0, 17:22] = 2
        assert risen_attacks(audit(before), audit(after)) == ("a0",)

    def test_everyone_a_little(self):
        assert risen_attacks(audit(np.full((1, N_CLASSES), 1)), audit(np.full((1, N_CLASSES), 2))) == ("a0",)

    def test_a_control_of_its_own_that_fell(self):
        """On a cut model chance is made of the attack's own pictures: the rate stays, and more of it is not chance."""

        def cut(control):
            outcome = sample_outcome("a0", access=Access.SPLIT, n_classes=N_CLASSES)
            rows = (
                row.model_copy(update={"both": 0.4, "control_both": control + 0.01 * (row.label % 3)})
                for row in outcome.per_class
            )
            return sample_report(attacks=(outcome.model_copy(update={"per_class": tuple(rows)}),))

        assert risen_attacks(cut(0.3), cut(0.1)) == ("a0",)
        assert risen_attacks(cut(0.1), cut(0.3)) == ()
