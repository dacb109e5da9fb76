"""How many label sets each of a program's workers may show."""

from ebpf_userspace_exporter.supervisor.series_budget import SeriesBudget
from ebpf_userspace_exporter.supervisor.targets import Slot

ONE, TWO, OTHER = Slot("gc", 1), Slot("gc", 2), Slot("malloc", 1)


def budget_of(*slots: Slot) -> SeriesBudget:
    budget = SeriesBudget()
    for slot in slots:
        budget.admit(slot)
    return budget


def test_a_single_worker_may_show_everything() -> None:
    assert budget_of(ONE).allowance(ONE, 100, folded=0) == 100


def test_what_is_left_is_offered_in_equal_parts() -> None:
    budget = budget_of(ONE, TWO)

    budget.take(ONE, 40)

    assert budget.allowance(ONE, 100, folded=0) == 70
    assert budget.allowance(TWO, 100, folded=0) == 30


def test_what_is_offered_to_all_never_adds_up_to_more_than_there_may_be() -> None:
    slots = [Slot("gc", pid) for pid in range(7)]
    budget = budget_of(*slots)
    for slot in slots:
        budget.take(slot, slot.pid)

    assert sum(budget.allowance(slot, 100, folded=10) for slot in slots) <= 90


def test_what_is_shown_already_stays_allowed_when_nothing_is_left() -> None:
    budget = budget_of(ONE, TWO)
    budget.take(ONE, 60)
    budget.take(TWO, 40)

    assert (budget.allowance(ONE, 50, folded=0), budget.allowance(TWO, 50, folded=0)) == (60, 40)


def test_totals_of_targets_that_are_gone_count() -> None:
    assert budget_of(ONE).allowance(ONE, 100, folded=90) == 10


def test_a_worker_that_leaves_gives_its_part_back() -> None:
    budget = budget_of(ONE, TWO)
    budget.take(TWO, 80)

    budget.give_back(TWO)
    budget.give_back(TWO)

    assert budget.allowance(ONE, 100, folded=0) == 100


def test_what_a_slow_worker_was_offered_is_offered_to_nobody_else() -> None:
    budget = budget_of(ONE, TWO)
    offered = budget.allowance(ONE, 100, folded=0)

    for _ in range(20):
        shown = budget.allowance(TWO, 100, folded=0)
        budget.take(TWO, shown)
    budget.take(ONE, offered)

    assert offered + shown <= 100


def test_what_a_worker_does_not_need_is_offered_to_others() -> None:
    budget = budget_of(ONE, TWO)
    for _ in range(10):
        budget.allowance(ONE, 100, folded=0)
        budget.take(ONE, 3)
        budget.take(TWO, budget.allowance(TWO, 100, folded=0))

    assert budget.series(TWO) >= 95


def test_where_there_are_more_workers_than_places_all_places_are_taken() -> None:
    slots = [Slot("gc", pid) for pid in range(30)]
    budget = budget_of(*slots)

    assert sum(budget.allowance(slot, 10, folded=0) for slot in slots) == 10


def test_all_that_start_at_a_time_are_offered_the_same() -> None:
    slots = [Slot("gc", pid) for pid in range(50)]
    budget = budget_of(*slots)

    assert {budget.allowance(slot, 10_000, folded=0) for slot in slots} == {200}


def test_one_that_needs_much_is_offered_what_the_others_have_not_used() -> None:
    slots = [Slot("gc", pid) for pid in range(50)]
    budget = budget_of(*slots)
    for _ in range(5):
        offered = [budget.allowance(slot, 10_000, folded=0) for slot in slots]
        for slot, most in zip(slots, offered, strict=True):
            budget.take(slot, most if slot is slots[7] else 3)

    assert budget.allowance(slots[7], 10_000, folded=0) > 8_000
    assert sum(map(budget.series, slots)) <= 10_000


def test_of_little_that_is_left_those_who_show_nothing_yet_have_equal_parts() -> None:
    budget = budget_of(ONE, TWO)
    for slot in (ONE, TWO):
        budget.allowance(slot, 10, folded=0)
        budget.take(slot, 0)

    assert [budget.allowance(slot, 10, folded=0) for slot in (ONE, TWO)] == [5, 5]


def test_a_worker_that_has_shown_nothing_yet_may_still_show_much() -> None:
    budget = budget_of(ONE)
    budget.allowance(ONE, 10_000, folded=0)
    budget.take(ONE, 0)

    assert budget.allowance(ONE, 10_000, folded=0) == 10_000


def test_programs_do_not_share() -> None:
    budget = budget_of(ONE, OTHER)
    budget.take(OTHER, 1000)

    assert budget.allowance(ONE, 100, folded=0) == 100
