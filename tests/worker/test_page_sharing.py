"""Where objects come to lie. What it saves is measured by benchmarks/memory.py."""

import gc

from ebpf_userspace_exporter.worker.page_sharing import fill_holes, gather_code

POOL_BYTES = 16 << 10


def doubled(number: int) -> int:
    return 2 * number


def uncalled() -> None:
    """Do nothing."""


def test_functions_that_were_called_do_the_same_with_code_that_lies_elsewhere() -> None:
    before, untouched, frozen = doubled.__code__, uncalled.__code__, gc.get_freeze_count()
    try:
        gather_code(lambda: doubled(1))

        assert doubled.__code__ is not before
        assert doubled.__code__ == before
        assert doubled(21) == 42
        assert uncalled.__code__ is untouched
    finally:
        if not frozen:
            gc.unfreeze()


def test_new_objects_lie_side_by_side_though_there_are_holes_everywhere() -> None:
    old = [bytes(200) for _ in range(10_000)]
    del old[::100]

    fill_holes()

    new = [bytes(200) for _ in range(50)]
    assert len({id(each) // POOL_BYTES for each in new}) <= 2
